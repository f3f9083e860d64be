// Shared by forward and backward of RoIAlign on the GPU: the maps of all levels, and the part that
// a RoI reads.
#pragma once

#include <vector>

#include "common/cuda.cuh"
#include "common/rois.h"
#include "roi_align/roi_align.h"

namespace mrcnn {

constexpr int kMaxLevels = 8;

// The maps of all levels (N, H, W, C), passed to kernels by value.
template <typename T, typename A>
struct Pyramid {
  T* map[kMaxLevels];
  int height[kMaxLevels], width[kMaxLevels];
  A scale[kMaxLevels];
  int levels, channels;
  int64_t images;
};

// The arguments of the op that control sampling.
template <typename A>
struct Sampling {
  int bins_h, bins_w;
  int64_t ratio;
  bool aligned;
  A canonical_size;
  int64_t canonical_level;
};

// The part of the maps that one RoI reads; nothing if it pools to zero.
template <typename T, typename A>
struct RoiPlan {
  bool pools;
  int level;
  int64_t start;  // offset of the image in the map
  RoiAxis<A> rows, columns;

  __device__ __forceinline__ void make(const Pyramid<T, A>& pyramid, const Sampling<A>& sampling,
                                       const A* boxes, int64_t image, int64_t roi) {
    const Box<A> box = load_box(boxes + roi * 4);
    // Only the CPU op reports an image index out of range: on a GPU, that would need a read-back.
    pools = image >= 0 && image < pyramid.images && finite(box);
    if (!pools) return;
    level = int(
        roi_level(box, sampling.canonical_size, sampling.canonical_level, int64_t(pyramid.levels)));
    start = image * pyramid.height[level] * pyramid.width[level] * pyramid.channels;
    const A scale = pyramid.scale[level];
    rows = roi_axis(box.y1, box.y2, scale, sampling.bins_h, sampling.ratio, sampling.aligned);
    columns = roi_axis(box.x1, box.x2, scale, sampling.bins_w, sampling.ratio, sampling.aligned);
  }
};

template <typename T, typename A, typename Data>
Pyramid<T, A> pyramid_of(std::vector<Tensor>& maps, const std::vector<double>& scales, Data data) {
  STD_TORCH_CHECK(maps.size() <= kMaxLevels, "roi_align: features must be of at most ", kMaxLevels,
                  " levels on CUDA, got ", maps.size());
  Pyramid<T, A> pyramid = {};
  pyramid.levels = int(maps.size());
  STD_TORCH_CHECK(
      maps[0].size(0) <= INT32_MAX / kMaxLevels && maps[0].size(1) <= INT32_MAX / 2,
      "roi_align: features must have less than 2^28 images and 2^30 channels on CUDA, got ",
      maps[0].size(0), " and ", maps[0].size(1));
  pyramid.images = maps[0].size(0), pyramid.channels = int(maps[0].size(1));
  for (size_t l = 0; l < maps.size(); ++l) {
    const int64_t height = maps[l].size(2), width = maps[l].size(3);
    STD_TORCH_CHECK(height <= INT32_MAX && width <= INT32_MAX && height * width <= INT32_MAX,
                    "roi_align: features must have less than 2^31 cells on CUDA, got ", height,
                    " x ", width);
    pyramid.map[l] = data(maps[l]);
    pyramid.height[l] = int(height), pyramid.width[l] = int(width);
    pyramid.scale[l] = A(scales[l]);
  }
  return pyramid;
}

template <typename T, typename A>
bool maps_fit_packs(const Pyramid<T, A>& pyramid, int count) {
  bool fit = true;
  for (int l = 0; l < pyramid.levels; ++l)
    fit &= fits_packs(pyramid.map[l], pyramid.channels, count);
  return fit;
}

inline void check_sampling(int64_t bins_h, int64_t bins_w, int64_t sampling_ratio) {
  // Within these, products of bins and numbers of samples fit an int.
  STD_TORCH_CHECK(bins_h > 0 && bins_w > 0 && bins_h <= 4096 && bins_w <= 4096,
                  "roi_align: bins must lie in [1, 4096] on CUDA, got ", bins_h, " x ", bins_w);
  STD_TORCH_CHECK(sampling_ratio <= kMaxSamplesPerBin, "roi_align: sampling_ratio must be at most ",
                  kMaxSamplesPerBin, " on CUDA, got ", sampling_ratio);
}

}  // namespace mrcnn
