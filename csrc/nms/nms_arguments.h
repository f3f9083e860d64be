// Arguments of nms, the same on all devices. If `padded` is set, boxes with NaN, and scores of NaN
// or -inf, mark unused slots. Otherwise all boxes compete: NaN is the best score, -inf the worst,
// and a box with NaN overlaps nothing.
#pragma once

#include "common/tensor.h"

namespace mrcnn {

inline void check_nms(const Tensor& boxes, const Tensor& scores, const Tensor& groups,
                      int64_t max_keep) {
  check_shape(boxes, {-1, -1, 4}, "nms: boxes (S, K, 4)");
  check_shape(scores, {boxes.size(0), boxes.size(1)}, "nms: scores (S, K)");
  check_shape(groups, {boxes.size(0), groups.numel() ? boxes.size(1) : -1}, "nms: groups (S, K)");
  STD_TORCH_CHECK(max_keep >= 0, "nms: max_keep must be at least 0, got ", max_keep);
  STD_TORCH_CHECK(boxes.size(1) <= INT32_MAX, "nms: a segment must hold less than 2^31 boxes, got ",
                  boxes.size(1));
}

}  // namespace mrcnn
