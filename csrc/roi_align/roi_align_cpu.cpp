// RoIAlign on the host: the taps of each RoI, the order of RoIs, and the division among threads.
#include <algorithm>
#include <span>
#include <tuple>

#include "common/channels_last.h"
#include "common/parallel.h"
#include "common/rois.h"
#include "common/tensor.h"
#include "roi_align/roi_align.h"

namespace mrcnn {
namespace {

template <typename T>
struct Tap {
  int64_t cell;
  T weight;
};
template <typename T>
using Taps = std::span<const Tap<T>>;

struct CellRange {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
  bool has(int64_t cell) const { return begin <= cell && cell < end; }
};

// The merged taps of all bins along one axis.
template <typename T>
class AxisTaps {
 public:
  int64_t bins() const { return int64_t(start_.size()) - 1; }
  Taps<T> of_bin(int64_t bin) const {
    return {taps_.data() + start_[bin], taps_.data() + start_[bin + 1]};
  }

  void build(const RoiAxis<T>& axis, int64_t bins, int64_t cells) {
    taps_.clear();
    start_.assign(1, 0);
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t sample = 0; sample < axis.samples; ++sample) {
        LinearTap<T> tap;
        if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
        add(tap.low, tap.weight_low / axis.samples);
        if (tap.weight_high != 0) add(tap.high, tap.weight_high / axis.samples);
      }
      start_.push_back(int64_t(taps_.size()));
    }
    const auto [low, high] = std::minmax_element(
        taps_.begin(), taps_.end(), [](const auto& a, const auto& b) { return a.cell < b.cell; });
    range_ = taps_.empty() ? CellRange{} : CellRange{low->cell, high->cell + 1};
  }
  CellRange range() const { return range_; }  // all cells that the taps read

 private:
  // Samples of a bin are in ascending order, so a known cell is one of the last two.
  void add(int64_t cell, T weight) {
    const int64_t first = start_.back(), size = int64_t(taps_.size());
    for (int64_t i = size - 1; i >= std::max(first, size - 2); --i)
      if (taps_[i].cell == cell) {
        taps_[i].weight += weight;
        return;
      }
    taps_.push_back({cell, weight});
  }

  std::vector<Tap<T>> taps_;
  CellRange range_{};
  std::vector<int64_t> start_;  // bin b has taps_[start_[b]] up to taps_[start_[b + 1]]
};

struct Level {
  int64_t height, width;
  double scale;
};

// The part of the maps that one RoI reads. `build` returns false if the RoI pools to zero.
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

}  // namespace
}  // namespace mrcnn

#define LOOPS "roi_align/roi_align_loops.h"
#include "common/each_isa.h"

namespace mrcnn {
namespace {

// A larger output would push the maps out of the caches.
constexpr size_t kCacheBytes = size_t(8) << 20;
constexpr size_t kAlignment = 64;  // bytes of the widest vector
// Rows of a map that are cleared and summed at a time: few enough to stay in the cache.
constexpr int64_t kBandRows = 4;

std::vector<Level> levels_of(const std::vector<Tensor>& features,
                             const std::vector<double>& scales) {
  std::vector<Level> levels;
  for (size_t i = 0; i < features.size(); ++i)
    levels.push_back({features[i].size(2), features[i].size(3), scales[i]});
  return levels;
}

// Some rows of the map of one image and level.
struct Band {
  size_t level;
  int64_t image;
  CellRange rows;
};

// All bands, coarse levels first: these take most work, which must not come last.
std::vector<Band> bands_of(const std::vector<Level>& levels, int64_t images) {
  std::vector<Band> bands;
  for (size_t level = levels.size(); level-- > 0;)
    for (int64_t image = 0; image < images; ++image)
      for (int64_t row = 0; row < levels[level].height; row += kBandRows)
        bands.push_back({level, image, {row, std::min(row + kBandRows, levels[level].height)}});
  return bands;
}

// Sorts RoIs by image, level, band of rows and column, so that RoIs with common cells follow each
// other and find them in the cache.
template <typename A>
std::vector<int64_t> order_of_rois(const A* boxes, const int64_t* image_of, int64_t rois,
                                   const std::vector<Level>& levels, double canonical_size,
                                   int64_t canonical_level) {
  constexpr uint64_t kBand = 8;
  std::vector<std::tuple<uint64_t, uint64_t, uint64_t, uint64_t, int64_t>> keys(rois);
  for (int64_t k = 0; k < rois; ++k) {
    const Box<A> box = load_box(boxes + k * 4);
    const int64_t level =
        finite(box) ? roi_level(box, A(canonical_size), canonical_level, int64_t(levels.size()))
                    : 0;
    const Level& l = levels[level];
    const auto cell = [&](A low, A high, int64_t cells) {
      const A center = (low + high) / 2 * A(l.scale);
      return uint64_t(center > 0 ? std::min(center, A(cells)) : A(0));
    };
    const uint64_t row = cell(box.y1, box.y2, l.height), column = cell(box.x1, box.x2, l.width);
    keys[k] = {uint64_t(image_of[k] + 1), uint64_t(level), row / kBand, column, k};
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int64_t> order(rois);
  for (int64_t k = 0; k < rois; ++k) order[k] = std::get<4>(keys[k]);
  return order;
}

}  // namespace

Tensor roi_align_cpu(std::vector<Tensor> features, Tensor boxes, Tensor image_index,
                     std::vector<double> scales, int64_t bins_h, int64_t bins_w,
                     int64_t sampling_ratio, bool aligned, double canonical_size,
                     int64_t canonical_level) {
  check_roi_align(features, boxes, image_index, scales);
  STD_TORCH_CHECK(bins_h > 0 && bins_w > 0, "roi_align: bins must be at least 1");
  const ScalarType dtype = features[0].scalar_type();
  const int64_t rois = boxes.size(0), channels = features[0].size(1);
  const int64_t images = features[0].size(0);
  for (Tensor& map : features) map = channels_last_cpu(map);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  const int64_t* image_of = image_index.const_data_ptr<int64_t>();
  check_image_index("roi_align", image_of, rois, images);
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

    const size_t bytes = out.numel() * sizeof(T);
    const bool past_caches = bytes > kCacheBytes && channels * sizeof(T) % kAlignment == 0 &&
                             uintptr_t(out_data) % kAlignment == 0;
    const std::vector<int64_t> order =
        order_of_rois(box_data, image_of, rois, levels, canonical_size, canonical_level);
    parallel_pieces(rois, 8, [&](int64_t begin, int64_t end) {
      RoiPlan<A> plan;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = order[i];
        T* roi_out = out_data + k * roi_numel;
        if (!plan.build(box_data + k * 4, image_of[k], levels, bins_h, bins_w, sampling_ratio,
                        aligned, canonical_size, canonical_level)) {
          std::fill(roi_out, roi_out + roi_numel, T(0));
          continue;
        }
        const Level& l = levels[plan.level];
        BY_ISA(pool(maps[plan.level] + plan.image * l.height * l.width * channels, l.width,
                    channels, plan.rows, plan.columns, past_caches, roi_out));
      }
    });
  });
  return out;
}

std::vector<Tensor> roi_align_backward_cpu(Tensor grad, std::vector<Tensor> features, Tensor boxes,
                                           Tensor image_index, std::vector<double> scales,
                                           int64_t sampling_ratio, bool aligned,
                                           double canonical_size, int64_t canonical_level) {
  check_roi_align(features, boxes, image_index, scales);
  check_shape(grad, {boxes.size(0), features[0].size(1), -1, -1}, "roi_align: grad (K, C, h, w)");
  const ScalarType dtype = grad.scalar_type();
  const int64_t rois = grad.size(0), channels = grad.size(1);
  const int64_t bins_h = grad.size(2), bins_w = grad.size(3);
  grad = channels_last_cpu(grad);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  const int64_t* image_of = image_index.const_data_ptr<int64_t>();
  check_image_index("roi_align", image_of, rois, features[0].size(0));
  const std::vector<Level> levels = levels_of(features, scales);

  std::vector<Tensor> grads;
  for (const Tensor& map : features)
    grads.push_back(new_tensor(grad, {map.size(0), channels, map.size(2), map.size(3)},
                               boxes.scalar_type(), MemoryFormat::ChannelsLast));
  dispatch_floating(dtype, "roi_align_backward", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const A* box_data = boxes.const_data_ptr<A>();
    const T* grad_data = grad.const_data_ptr<T>();
    const std::vector<int64_t> order =
        order_of_rois(box_data, image_of, rois, levels, canonical_size, canonical_level);
    std::vector<RoiPlan<A>> plans(rois);
    std::vector<char> pools(rois);
    parallel_pieces(rois, 32, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        pools[k] = plans[k].build(box_data + k * 4, image_of[k], levels, bins_h, bins_w,
                                  sampling_ratio, aligned, canonical_size, canonical_level);
    });
    const int64_t images = features[0].size(0);
    std::vector<std::vector<int64_t>> rois_of(images * levels.size());
    for (const int64_t k : order)
      if (pools[k]) rois_of[plans[k].image * levels.size() + plans[k].level].push_back(k);
    const std::vector<Band> bands = bands_of(levels, images);
    // One thread writes a band, taking its RoIs in order. So no two threads write to the same cell,
    // and sums have the same order for any number of threads.
    parallel_pieces(int64_t(bands.size()), 1, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> band_rois;
      for (int64_t i = begin; i < end; ++i) {
        const auto& [level, image, rows] = bands[i];
        const auto& [height, width, scale] = levels[level];
        A* map = grads[level].template mutable_data_ptr<A>() + image * height * width * channels;
        band_rois.clear();
        int64_t covered = 0;
        for (const int64_t k : rois_of[image * levels.size() + level]) {
          const CellRange reads = plans[k].rows.range();
          if (reads.end <= rows.begin || rows.end <= reads.begin) continue;
          band_rois.push_back(k);
          covered += plans[k].columns.range().size();
        }
        // Zeros that are soon added to should stay in the caches.
        const bool past_caches = covered < width && channels * sizeof(A) % kAlignment == 0 &&
                                 uintptr_t(map) % kAlignment == 0;
        BY_ISA(clear(map + rows.begin * width * channels, map + rows.end * width * channels,
                     past_caches));
        for (const int64_t k : band_rois)
          BY_ISA(scatter(grad_data + k * channels * bins_h * bins_w, width, channels, rows,
                         plans[k].rows, plans[k].columns, map));
      }
    });
  });
  for (Tensor& map : grads) map = torch::stable::to(map, dtype);
  return grads;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) {
  m.impl("roi_align", BOX(roi_align_cpu));
  m.impl("roi_align_backward", BOX(roi_align_backward_cpu));
}

}  // namespace mrcnn
