// Rules of matching and argument checks, the same on all devices. The specification is
// `match_boxes` in mrcnn/ops/reference.py.
#pragma once

#include <cstdint>

#include "common/box.h"
#include "common/tensor.h"

namespace mrcnn {

// Returns 1 (positive), 0 (negative) or -1 (neither) for the largest overlap of a box with a
// target.
HOST_DEVICE int8_t role_of(float overlap, float low, float high) {
  return overlap >= high ? 1 : overlap >= low ? -1 : 0;
}

inline void check_match_boxes(const Tensor& boxes, const Tensor& targets, const Tensor& valid) {
  check_shape(targets, {-1, -1, 4}, "match_boxes: targets (N, G, 4)");
  check_shape(valid, {targets.size(0), targets.size(1)}, "match_boxes: valid (N, G)");
  check_shape(boxes, {-1, -1, 4}, "match_boxes: boxes (N or 1, A, 4)");
  STD_TORCH_CHECK(boxes.size(0) == 1 || boxes.size(0) == targets.size(0),
                  "match_boxes: boxes must be those of 1 or ", targets.size(0), " images, got ",
                  boxes.size(0));
}

}  // namespace mrcnn
