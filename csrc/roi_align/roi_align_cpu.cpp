// RoIAlign over channels_last maps: every tap reads or writes one contiguous vector of channels.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "common/tensor.h"
#include "roi_align/roi_align.h"

namespace mrcnn {
namespace {

// Channels held in registers while the taps of a bin are summed.
constexpr int64_t kChannelBlock = 64;
constexpr int64_t kVectorBytes = 32;

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};

// The merged taps of all bins along one axis: bin b has taps[start[b]] up to taps[start[b + 1]].
template <typename T>
struct AxisTaps {
  struct Tap {
    int64_t cell;
    T weight;
  };
  std::vector<Tap> taps;
  std::vector<int64_t> start;

  void build(const RoiAxis<T>& axis, int64_t bins, int64_t cells) {
    taps.clear();
    start.assign(1, 0);
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t sample = 0; sample < axis.samples; ++sample) {
        LinearTap<T> tap;
        if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
        add(tap.low, tap.weight_low / axis.samples);
        if (tap.weight_high != 0) add(tap.high, tap.weight_high / axis.samples);
      }
      start.push_back(int64_t(taps.size()));
    }
  }

 private:
  // Samples of a bin advance, so a cell seen before is one of the last two.
  void add(int64_t cell, T weight) {
    const int64_t first = start.back(), size = int64_t(taps.size());
    for (int64_t i = size - 1; i >= std::max(first, size - 2); --i)
      if (taps[i].cell == cell) {
        taps[i].weight += weight;
        return;
      }
    taps.push_back({cell, weight});
  }
};

struct Level {
  int64_t height, width;
  double scale;
};

// What one RoI reads: its level and image, and where. False if it pools to zero.
template <typename A>
struct RoiPlan {
  int64_t level = 0, image = 0;
  AxisTaps<A> rows, columns;

  bool build(const A* box_data, int64_t image_index, const std::vector<Level>& levels,
             int64_t bins_h, int64_t bins_w, int64_t sampling_ratio, bool aligned,
             double canonical_size, int64_t canonical_level) {
    const Box<A> box = load_box(box_data);
    image = image_index;
    if (image < 0 || !finite(box)) return false;
    level = roi_level(box, A(canonical_size), canonical_level, int64_t(levels.size()));
    const Level& l = levels[level];
    const A scale = A(l.scale);
    rows.build(roi_axis(box.y1, box.y2, scale, bins_h, sampling_ratio, aligned), bins_h, l.height);
    columns.build(roi_axis(box.x1, box.x2, scale, bins_w, sampling_ratio, aligned), bins_w,
                  l.width);
    return true;
  }
};

template <typename A, typename T>
[[gnu::always_inline]] inline void load(const T* p, typename VectorOf<A>::type& v) {
  if constexpr (std::is_same_v<A, T>) {
    std::memcpy(&v, p, kVectorBytes);
  } else {
    for (size_t i = 0; i < kVectorBytes / sizeof(A); ++i) v[i] = A(p[i]);
  }
}

template <typename A, typename T>
[[gnu::always_inline]] inline void store(T* p, const typename VectorOf<A>::type& v) {
  if constexpr (std::is_same_v<A, T>) {
    std::memcpy(p, &v, kVectorBytes);
  } else {
    for (size_t i = 0; i < kVectorBytes / sizeof(A); ++i) p[i] = T(v[i]);
  }
}

// map (height, width, channels) -> out (bins_h, bins_w, channels).
template <typename T, typename A>
MULTIVERSION void pool(const T* map, int64_t width, int64_t channels, const AxisTaps<A>& rows,
                       const AxisTaps<A>& columns, T* out) {
  using V = typename VectorOf<A>::type;
  constexpr int64_t kLanes = kVectorBytes / sizeof(A), kVectors = kChannelBlock / kLanes;
  const int64_t bins_h = int64_t(rows.start.size()) - 1, bins_w = int64_t(columns.start.size()) - 1;
  for (int64_t by = 0; by < bins_h; ++by)
    for (int64_t bx = 0; bx < bins_w; ++bx, out += channels) {
      int64_t c = 0;
      for (; c + kChannelBlock <= channels; c += kChannelBlock) {
        V sum[kVectors] = {};
        for (int64_t i = rows.start[by]; i < rows.start[by + 1]; ++i) {
          const T* row = map + rows.taps[i].cell * width * channels + c;
          for (int64_t j = columns.start[bx]; j < columns.start[bx + 1]; ++j) {
            const T* cell = row + columns.taps[j].cell * channels;
            const A weight = rows.taps[i].weight * columns.taps[j].weight;
            for (int64_t v = 0; v < kVectors; ++v) {
              V value;
              load<A>(cell + v * kLanes, value);
              sum[v] += weight * value;
            }
          }
        }
        for (int64_t v = 0; v < kVectors; ++v) store<A>(out + c + v * kLanes, sum[v]);
      }
      for (; c < channels; ++c) {
        A sum = 0;
        for (int64_t i = rows.start[by]; i < rows.start[by + 1]; ++i)
          for (int64_t j = columns.start[bx]; j < columns.start[bx + 1]; ++j)
            sum += rows.taps[i].weight * columns.taps[j].weight *
                   A(map[(rows.taps[i].cell * width + columns.taps[j].cell) * channels + c]);
        out[c] = T(sum);
      }
    }
}

// The transpose of `pool` for channels [first, last): adds grad (bins_h, bins_w, channels) to map.
template <typename T, typename A>
MULTIVERSION void scatter(const T* grad, int64_t width, int64_t channels, int64_t first,
                          int64_t last, const AxisTaps<A>& rows, const AxisTaps<A>& columns,
                          A* map) {
  using V = typename VectorOf<A>::type;
  constexpr int64_t kLanes = kVectorBytes / sizeof(A), kVectors = kChannelBlock / kLanes;
  const int64_t bins_h = int64_t(rows.start.size()) - 1, bins_w = int64_t(columns.start.size()) - 1;
  for (int64_t by = 0; by < bins_h; ++by)
    for (int64_t bx = 0; bx < bins_w; ++bx, grad += channels)
      for (int64_t i = rows.start[by]; i < rows.start[by + 1]; ++i)
        for (int64_t j = columns.start[bx]; j < columns.start[bx + 1]; ++j) {
          A* cell = map + (rows.taps[i].cell * width + columns.taps[j].cell) * channels;
          const A weight = rows.taps[i].weight * columns.taps[j].weight;
          int64_t c = first;
          for (; c + kChannelBlock <= last; c += kChannelBlock)
            for (int64_t v = 0; v < kVectors; ++v) {
              A* p = cell + c + v * kLanes;
              V sum, value;
              load<A>(p, sum);
              load<A>(grad + c + v * kLanes, value);
              sum += weight * value;
              std::memcpy(p, &sum, kVectorBytes);
            }
          for (; c < last; ++c) cell[c] += weight * A(grad[c]);
        }
}

void check_image_index(const int64_t* image_index, int64_t rois, int64_t images) {
  for (int64_t k = 0; k < rois; ++k)
    STD_TORCH_CHECK(image_index[k] >= -1 && image_index[k] < images,
                    "roi_align: image_index must lie in [0, ", images, ") or be -1, got ",
                    image_index[k], " for box ", k);
}

std::vector<Level> levels_of(const std::vector<Tensor>& features,
                             const std::vector<double>& scales) {
  std::vector<Level> levels;
  for (size_t i = 0; i < features.size(); ++i)
    levels.push_back({features[i].size(2), features[i].size(3), scales[i]});
  return levels;
}

// Boxes are computed in the type that sums are kept in.
Tensor boxes_for(const Tensor& boxes, ScalarType feature_type) {
  const ScalarType type =
      feature_type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torch::stable::contiguous(torch::stable::to(boxes, type));
}

}  // namespace

Tensor roi_align_cpu(std::vector<Tensor> features, Tensor boxes, Tensor image_index,
                     std::vector<double> scales, int64_t bins_h, int64_t bins_w,
                     int64_t sampling_ratio, bool aligned, double canonical_size,
                     int64_t canonical_level) {
  const ScalarType dtype = features[0].scalar_type();
  const int64_t rois = boxes.size(0), channels = features[0].size(1);
  const int64_t images = features[0].size(0);
  for (Tensor& map : features) map = torch::stable::contiguous(map, MemoryFormat::ChannelsLast);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  const int64_t* image_of = image_index.const_data_ptr<int64_t>();
  check_image_index(image_of, rois, images);
  const std::vector<Level> levels = levels_of(features, scales);

  Tensor out =
      new_tensor(boxes, {rois, channels, bins_h, bins_w}, dtype, MemoryFormat::ChannelsLast);
  dispatch_floating(dtype, "roi_align", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const A* box_data = boxes.const_data_ptr<A>();
    T* out_data = out.mutable_data_ptr<T>();
    std::vector<const T*> maps;
    for (const Tensor& map : features) maps.push_back(map.const_data_ptr<T>());
    const int64_t roi_numel = channels * bins_h * bins_w;

    torch::stable::parallel_for(0, rois, 8, [&](int64_t begin, int64_t end) {
      RoiPlan<A> plan;
      for (int64_t k = begin; k < end; ++k) {
        T* roi_out = out_data + k * roi_numel;
        if (!plan.build(box_data + k * 4, image_of[k], levels, bins_h, bins_w, sampling_ratio,
                        aligned, canonical_size, canonical_level)) {
          std::fill(roi_out, roi_out + roi_numel, T(0));
          continue;
        }
        const Level& l = levels[plan.level];
        pool(maps[plan.level] + plan.image * l.height * l.width * channels, l.width, channels,
             plan.rows, plan.columns, roi_out);
      }
    });
  });
  return out;
}

std::vector<Tensor> roi_align_backward_cpu(Tensor grad, std::vector<Tensor> features, Tensor boxes,
                                           Tensor image_index, std::vector<double> scales,
                                           int64_t sampling_ratio, bool aligned,
                                           double canonical_size, int64_t canonical_level) {
  const ScalarType dtype = grad.scalar_type();
  const int64_t rois = grad.size(0), channels = grad.size(1);
  const int64_t bins_h = grad.size(2), bins_w = grad.size(3);
  grad = torch::stable::contiguous(grad, MemoryFormat::ChannelsLast);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  const int64_t* image_of = image_index.const_data_ptr<int64_t>();
  check_image_index(image_of, rois, features[0].size(0));
  const std::vector<Level> levels = levels_of(features, scales);

  std::vector<Tensor> grads;
  for (const Tensor& map : features) {
    Tensor sum = new_tensor(grad, {map.size(0), channels, map.size(2), map.size(3)},
                            boxes.scalar_type(), MemoryFormat::ChannelsLast);
    grads.push_back(torch::stable::zero_(sum));
  }
  dispatch_floating(dtype, "roi_align_backward", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const A* box_data = boxes.const_data_ptr<A>();
    const T* grad_data = grad.const_data_ptr<T>();
    std::vector<A*> maps;
    for (Tensor& map : grads) maps.push_back(map.mutable_data_ptr<A>());

    // Threads own slices of channels and walk all RoIs in order: no two write to one place, and
    // every sum is taken in the same order for any number of threads.
    const int64_t slices = (channels + kChannelBlock - 1) / kChannelBlock;
    torch::stable::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
      RoiPlan<A> plan;
      const int64_t first = begin * kChannelBlock, last = std::min(end * kChannelBlock, channels);
      for (int64_t k = 0; k < rois; ++k) {
        if (!plan.build(box_data + k * 4, image_of[k], levels, bins_h, bins_w, sampling_ratio,
                        aligned, canonical_size, canonical_level))
          continue;
        const Level& l = levels[plan.level];
        scatter(grad_data + k * channels * bins_h * bins_w, l.width, channels, first, last,
                plan.rows, plan.columns,
                maps[plan.level] + plan.image * l.height * l.width * channels);
      }
    });
  });
  for (Tensor& map : grads) map = torch::stable::to(map, dtype);
  return grads;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward_cpu));
}

}  // namespace mrcnn
