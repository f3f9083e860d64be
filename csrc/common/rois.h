// Argument checks of RoIAlign and RoIPool, the same on all devices.
#pragma once

#include "common/tensor.h"

namespace mrcnn {

// Image -1 marks a padded slot.
inline void check_image_index(const char* op, const int64_t* image_index, int64_t rois,
                              int64_t images) {
  for (int64_t k = 0; k < rois; ++k)
    STD_TORCH_CHECK(image_index[k] >= -1 && image_index[k] < images, op,
                    ": image_index must lie in [0, ", images, ") or be -1, got ", image_index[k],
                    " for box ", k);
}

inline void check_roi_align(const std::vector<Tensor>& features, const Tensor& boxes,
                            const Tensor& image_index, const std::vector<double>& scales) {
  STD_TORCH_CHECK(!features.empty() && scales.size() == features.size(),
                  "roi_align: features and scales must have one entry a level");
  check_shape(features[0], {-1, -1, -1, -1}, "roi_align: features (N, C, H, W)");
  for (const Tensor& map : features)
    check_shape(map, {features[0].size(0), features[0].size(1), -1, -1},
                "roi_align: features (N, C, H, W)");
  check_shape(boxes, {-1, 4}, "roi_align: boxes (K, 4)");
  check_shape(image_index, {boxes.size(0)}, "roi_align: image_index (K)");
}

inline void check_roi_pool(const Tensor& features, const Tensor& boxes, const Tensor& image_index,
                           int64_t bins_h, int64_t bins_w) {
  check_shape(features, {-1, -1, -1, -1}, "roi_pool: features (N, C, H, W)");
  check_shape(boxes, {-1, 4}, "roi_pool: boxes (K, 4)");
  check_shape(image_index, {boxes.size(0)}, "roi_pool: image_index (K)");
  STD_TORCH_CHECK(bins_h > 0 && bins_w > 0, "roi_pool: bins must be at least 1");
}

inline void check_roi_pool_gradient(const Tensor& grad, const Tensor& argmax,
                                    const Tensor& image_index) {
  check_shape(grad, {-1, -1, -1, -1}, "roi_pool: grad (K, C, h, w)");
  check_shape(argmax, {grad.size(0), grad.size(1), grad.size(2), grad.size(3)},
              "roi_pool: argmax (K, C, h, w)");
  check_shape(image_index, {grad.size(0)}, "roi_pool: image_index (K)");
}

// The dtype for sums over features of `dtype`, the same as `Accumulate`.
inline ScalarType sum_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Converts boxes to the type that sums are kept in.
inline Tensor boxes_for(const Tensor& boxes, ScalarType feature_type) {
  return torch::stable::contiguous(torch::stable::to(boxes, sum_type(feature_type)));
}

}  // namespace mrcnn
