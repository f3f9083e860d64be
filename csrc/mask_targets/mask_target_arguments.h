// Argument checks and conversion of mask_targets, the same on all devices.
#pragma once

#include "common/tensor.h"
#include "mask_targets/mask_targets.h"

namespace mrcnn {

inline void prepare_mask_targets(Tensor& points, Tensor& ring_start, Tensor& instance_ring,
                                 Tensor& counts, Tensor& instance_count, Tensor& frame,
                                 Tensor& transform, Tensor& boxes, Tensor& instance, int64_t size) {
  for (Tensor* tensor : {&points, &ring_start, &instance_ring, &counts, &instance_count, &frame,
                         &transform, &boxes, &instance})
    *tensor = torch::stable::contiguous(*tensor);
  check_shape(points, {-1, 2}, "mask_targets: masks.points (V, 2)");
  check_shape(ring_start, {-1}, "mask_targets: masks.ring_start (Q + 1)");
  check_shape(counts, {-1}, "mask_targets: masks.counts (T)");
  check_shape(frame, {-1, 2}, "mask_targets: masks.frame (I, 2)");
  check_shape(boxes, {-1, 4}, "mask_targets: boxes (R, 4)");
  check_shape(instance, {boxes.size(0)}, "mask_targets: instance (R)");
  const int64_t instances = frame.size(0);
  check_shape(instance_ring, {instances + 1}, "mask_targets: masks.instance_ring (I + 1)");
  check_shape(instance_count, {instances + 1}, "mask_targets: masks.instance_count (I + 1)");
  check_shape(transform, {instances, 4}, "mask_targets: masks.transform (I, 4)");
  STD_TORCH_CHECK(size >= 0 && size <= kMaxTargetSize, "mask_targets: size must lie in [0, ",
                  kMaxTargetSize, "], got ", size);
}

}  // namespace mrcnn
