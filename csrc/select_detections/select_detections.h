// Argument checks of select_detections, the same on all devices. The specification is
// `select_detections` in mrcnn/ops/reference.py.
#pragma once

#include "common/tensor.h"

namespace mrcnn {

inline void check_detections(const Tensor& scores, const Tensor& deltas, const Tensor& boxes,
                             const Tensor& valid, const Tensor& sizes,
                             const std::vector<double>& delta_weights, int64_t max_detections) {
  check_shape(scores, {-1, -1, -1}, "select_detections: scores (N, R, C)");
  const int64_t images = scores.size(0), rois = scores.size(1), classes = scores.size(2);
  check_shape(deltas, {images, rois, -1}, "select_detections: deltas (N, R, 4 C)");
  STD_TORCH_CHECK(deltas.size(2) == 4 || deltas.size(2) == 4 * classes,
                  "select_detections: deltas must have 4 or 4 C columns, got ", deltas.size(2));
  check_shape(boxes, {images, rois, 4}, "select_detections: boxes (N, R, 4)");
  check_shape(valid, {images, rois}, "select_detections: valid (N, R)");
  check_shape(sizes, {images, 2}, "select_detections: sizes (N, 2)");
  STD_TORCH_CHECK(delta_weights.size() == 4, "select_detections: delta_weights must be 4 numbers");
  STD_TORCH_CHECK(max_detections >= 0, "select_detections: max_detections must be at least 0, got ",
                  max_detections);
}

}  // namespace mrcnn
