// Argument checks and conversion of the pasting ops, the same on all devices.
#pragma once

#include "common/tensor.h"

namespace mrcnn {

inline void prepare_paste(Tensor& masks, Tensor& boxes, int64_t height, int64_t width) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.size(1) == masks.size(2) && boxes.dim() == 2 &&
                      boxes.size(0) == masks.size(0) && boxes.size(1) == 4,
                  "paste_masks: masks must have shape (D, M, M), boxes (D, 4)");
  STD_TORCH_CHECK(height >= 0 && width >= 0 && (height == 0 || width <= INT32_MAX / height),
                  "paste_masks: height * width must lie in [0, 2^31), got ", height, " x ", width);
  masks = torch::stable::contiguous(torch::stable::to(masks, ScalarType::Float));
  boxes = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
}

}  // namespace mrcnn
