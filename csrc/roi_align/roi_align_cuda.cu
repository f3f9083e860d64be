// RoIAlign on the GPU: all levels and images in one launch, over channels_last maps, where a warp
// reads the channels of a cell as one row of 16-byte words.
#include <algorithm>
#include <vector>

#include "common/cuda.cuh"
#include "common/rois.h"
#include "roi_align/roi_align.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kMaxLevels = 8;

// The maps of all levels (N, H, W, C), passed to kernels by value.
template <typename T, typename A>
struct Pyramid {
  T* map[kMaxLevels];
  int height[kMaxLevels], width[kMaxLevels];
  A scale[kMaxLevels];
  int levels;
  int64_t images, channels;
};

// How boxes are sampled; the arguments of the op.
template <typename A>
struct Sampling {
  int bins_h, bins_w;
  int64_t ratio;
  bool aligned;
  A canonical_size;
  int64_t canonical_level;
};

// What one RoI reads: its level and where. False if it pools to zero.
template <typename T, typename A>
struct RoiPlan {
  int level;
  RoiAxis<A> rows, columns;

  __device__ __forceinline__ bool make(const Pyramid<T, A>& pyramid, const Sampling<A>& sampling,
                                       const A* boxes, int64_t image, int64_t roi) {
    const Box<A> box = load_box(boxes + roi * 4);
    // An image that is not there is told on the host only: here it would need a read-back.
    if (image < 0 || image >= pyramid.images || !finite(box)) return false;
    level = int(
        roi_level(box, sampling.canonical_size, sampling.canonical_level, int64_t(pyramid.levels)));
    const A scale = pyramid.scale[level];
    rows = roi_axis(box.y1, box.y2, scale, sampling.bins_h, sampling.ratio, sampling.aligned);
    columns = roi_axis(box.x1, box.x2, scale, sampling.bins_w, sampling.ratio, sampling.aligned);
    return true;
  }
};

template <typename A>
struct Tap {
  int cell;
  A weight;
};

// The most taps that a bin can have. Boxes that are sampled adaptively are not reversed, so their
// samples advance and each cell is met once.
template <typename A>
__device__ __forceinline__ int taps_per_bin(const RoiAxis<A>& axis, int64_t sampling_ratio,
                                            int cells) {
  const int most = int(2 * axis.samples);
  return max(1, sampling_ratio > 0 ? most : min(most, cells));
}

// Merges the taps of one bin's samples; returns their number.
template <typename A>
__device__ __forceinline__ int merge_taps(const RoiAxis<A>& axis, int bin, int cells,
                                          Tap<A>* taps) {
  int count = 0;
  const auto add = [&](int cell, A weight) {
    // Samples of a bin advance, so a cell met before is one of the last two.
    for (int i = count - 1; i >= 0 && i >= count - 2; --i)
      if (taps[i].cell == cell) {
        taps[i].weight += weight;
        return;
      }
    taps[count++] = {cell, weight};
  };
  for (int64_t sample = 0; sample < axis.samples; ++sample) {
    LinearTap<A> tap;
    if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
    add(int(tap.low), tap.weight_low / axis.samples);
    if (tap.weight_high != 0) add(int(tap.high), tap.weight_high / axis.samples);
  }
  return count;
}

// One block pools some rows of bins of one RoI: its threads merge the taps of the bins along each
// axis, then a warp takes a bin and its lanes the channels. `budget` taps fit for each axis; where
// bins have more, they are taken in parts.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kThreads)
    roi_align_kernel(const __grid_constant__ Pyramid<const T, A> pyramid,
                     const __grid_constant__ Sampling<A> sampling, const A* boxes,
                     const int64_t* image_index, int rows_per_block, int budget, T* out) {
  DYNAMIC_SHARED(Tap<A>, row_taps);
  Tap<A>* column_taps = row_taps + budget;
  int* row_count = reinterpret_cast<int*>(column_taps + budget);
  int* column_count = row_count + budget;

  const int64_t roi = blockIdx.x, channels = pyramid.channels, image = image_index[roi];
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int bins_w = sampling.bins_w;
  const int first_row = blockIdx.y * rows_per_block;
  const int last_row = min(first_row + rows_per_block, sampling.bins_h);
  out += roi * sampling.bins_h * bins_w * channels;

  RoiPlan<const T, A> plan;
  if (!plan.make(pyramid, sampling, boxes, image, roi)) {
    const int64_t end = int64_t(last_row) * bins_w * channels;
    for (int64_t i = int64_t(first_row) * bins_w * channels + threadIdx.x; i < end; i += kThreads)
      out[i] = T(A(0));
    return;
  }
  const int height = pyramid.height[plan.level], width = pyramid.width[plan.level];
  const T* map = pyramid.map[plan.level] + image * height * width * channels;
  const int row_most = taps_per_bin(plan.rows, sampling.ratio, height);
  const int column_most = taps_per_bin(plan.columns, sampling.ratio, width);
  const int row_part = min(last_row - first_row, budget / row_most);
  const int column_part = min(bins_w, budget / column_most);

  for (int by0 = first_row; by0 < last_row; by0 += row_part)
    for (int bx0 = 0; bx0 < bins_w; bx0 += column_part) {
      const int rows = min(row_part, last_row - by0), columns = min(column_part, bins_w - bx0);
      __syncthreads();  // all are done with the taps of the part before
      for (int i = threadIdx.x; i < rows + columns; i += kThreads)
        if (i < rows)
          row_count[i] = merge_taps(plan.rows, by0 + i, height, row_taps + i * row_most);
        else
          column_count[i - rows] = merge_taps(plan.columns, bx0 + i - rows, width,
                                              column_taps + (i - rows) * column_most);
      __syncthreads();
      for (int bin = warp; bin < rows * columns; bin += kWarps) {
        const int by = bin / columns, bx = bin % columns;
        const Tap<A>* row = row_taps + by * row_most;
        const Tap<A>* column = column_taps + bx * column_most;
        T* bin_out = out + (int64_t(by0 + by) * bins_w + bx0 + bx) * channels;
        for (int64_t c = lane * kPack; c < channels; c += kWarpSize * kPack) {
          A sum[kPack] = {};
          for (int r = 0; r < row_count[by]; ++r) {
            const T* cells = map + int64_t(row[r].cell) * width * channels + c;
#pragma unroll 4
            for (int k = 0; k < column_count[bx]; ++k) {
              const A weight = row[r].weight * column[k].weight;
              A value[kPack];
              load_pack(cells + column[k].cell * channels, value);
#pragma unroll
              for (int v = 0; v < kPack; ++v) sum[v] = fma(weight, value[v], sum[v]);
            }
          }
          store_pack(bin_out + c, sum);
        }
      }
    }
}

// ---- Backward ----

constexpr int kTile = 8;  // cells along a side; one row a warp
static_assert(kTile == kWarps);

// The cells that one RoI adds to: those of map `map` (image * levels + level, -1 of none) from
// begin up to end.
struct RoiReach {
  int map, row_begin, row_end, column_begin, column_end;
};

// The cells between the outermost samples; a superset of those with weight.
template <typename A>
__device__ __forceinline__ void reach_of(const RoiAxis<A>& axis, int bins, int cells, int& begin,
                                         int& end) {
  const A one = axis.position(0, 0), other = axis.position(bins - 1, axis.samples - 1);
  const A low = one < other ? one : other, high = one < other ? other : one;
  begin = end = 0;
  // Written so that NaN reaches nothing.
  if (axis.samples == 0 || !(low <= A(cells) && high >= A(-1))) return;
  begin = low > 0 ? min(int(low), cells - 1) : 0;
  end = high < A(cells) ? min(int(high) + 2, cells) : cells;
}

template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    find_reaches(const __grid_constant__ Pyramid<T, A> pyramid,
                 const __grid_constant__ Sampling<A> sampling, const A* boxes,
                 const int64_t* image_index, int64_t rois, RoiReach* reaches) {
  const int64_t roi = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (roi >= rois) return;
  RoiReach reach = {-1, 0, 0, 0, 0};
  RoiPlan<T, A> plan;
  if (plan.make(pyramid, sampling, boxes, image_index[roi], roi)) {
    reach.map = int(image_index[roi]) * pyramid.levels + plan.level;
    reach_of(plan.rows, sampling.bins_h, pyramid.height[plan.level], reach.row_begin,
             reach.row_end);
    reach_of(plan.columns, sampling.bins_w, pyramid.width[plan.level], reach.column_begin,
             reach.column_end);
  }
  reaches[roi] = reach;
}

// The weight that one bin gives to each cell of a tile, along one axis, and which are not 0.
template <typename A>
struct TileWeights {
  A weight[kTile];
  unsigned present;
};

template <typename A>
__device__ __forceinline__ void weigh_tile(const RoiAxis<A>& axis, int bin, int cells, int first,
                                           TileWeights<A>& out) {
  TileWeights<A> weights = {};
  const auto add = [&](int64_t cell, A weight) {
#pragma unroll
    for (int i = 0; i < kTile; ++i)  // indices that are known keep the array in registers
      if (cell == first + i && weight != 0) {
        weights.weight[i] += weight;
        weights.present |= 1u << i;
      }
  };
  for (int64_t sample = 0; sample < axis.samples; ++sample) {
    LinearTap<A> tap;
    if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
    add(tap.low, tap.weight_low / axis.samples);
    add(tap.high, tap.weight_high / axis.samples);
  }
  out = weights;
}

struct TileList {
  int roi[kThreads];
  int of_warp[kWarps];  // how many of each warp's RoIs reach the tile
};

// One block sums the gradient of one tile, for some channels, over all RoIs that reach it, in the
// order of their indices: no atomics, the same bits every time, and every cell is written once.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kThreads)
    roi_align_backward_kernel(const __grid_constant__ Pyramid<T, A> pyramid,
                              const __grid_constant__ Sampling<A> sampling, const A* boxes,
                              const RoiReach* reaches, int64_t rois, int rois_at_once,
                              const T* grad) {
  DYNAMIC_SHARED(TileWeights<A>, tile_weights);
  SHARED(TileList, list);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int bins_h = sampling.bins_h, bins_w = sampling.bins_w;
  const int64_t channels = pyramid.channels;
  const int64_t c = (int64_t(blockIdx.y) * kWarpSize + lane) * kPack;

  int64_t tile = blockIdx.x;
  int level = 0, tiles_x = 0, tiles_y = 0;
  for (;; ++level) {  // the grid holds the tiles of all images, level by level
    tiles_x = (pyramid.width[level] + kTile - 1) / kTile;
    tiles_y = (pyramid.height[level] + kTile - 1) / kTile;
    const int64_t tiles = int64_t(tiles_x) * tiles_y * pyramid.images;
    if (tile < tiles) break;
    tile -= tiles;
  }
  const int64_t image = tile / (int64_t(tiles_x) * tiles_y);
  const int height = pyramid.height[level], width = pyramid.width[level];
  const int first_row = int(tile / tiles_x % tiles_y) * kTile;
  const int first_column = int(tile % tiles_x) * kTile;
  const int map_index = int(image) * pyramid.levels + level;

  A sum[kTile][kPack] = {};  // of the row of this warp
  for (int64_t start = 0; start < rois; start += kThreads) {
    const int64_t mine = start + threadIdx.x;
    bool reaches_tile = false;
    if (mine < rois) {
      const RoiReach reach = reaches[mine];
      reaches_tile = reach.map == map_index && reach.row_begin < first_row + kTile &&
                     reach.row_end > first_row && reach.column_begin < first_column + kTile &&
                     reach.column_end > first_column;
    }
    const unsigned lanes = __ballot_sync(kAllLanes, reaches_tile);
    if (lane == 0) list.of_warp[warp] = __popc(lanes);
    const int listed = __syncthreads_count(reaches_tile);
    if (reaches_tile) {
      int place = __popc(lanes & ((1u << lane) - 1));
      for (int w = 0; w < warp; ++w) place += list.of_warp[w];
      list.roi[place] = int(mine - start);
    }
    __syncthreads();
    for (int done = 0; done < listed; done += rois_at_once) {
      const int count = min(rois_at_once, listed - done), bins = bins_h + bins_w;
      for (int i = threadIdx.x; i < count * bins; i += kThreads) {
        const int64_t roi = start + list.roi[done + i / bins];
        const int bin = i % bins;
        RoiPlan<T, A> plan;
        plan.make(pyramid, sampling, boxes, image, roi);
        if (bin < bins_h)
          weigh_tile(plan.rows, bin, height, first_row, tile_weights[i]);
        else
          weigh_tile(plan.columns, bin - bins_h, width, first_column, tile_weights[i]);
      }
      __syncthreads();
      if (c < channels)
        for (int i = 0; i < count; ++i) {
          const TileWeights<A>* row = tile_weights + i * bins;
          const TileWeights<A>* column = row + bins_h;
          const int64_t roi = start + list.roi[done + i];
          const T* of_roi = grad + roi * bins_h * bins_w * channels + c;
          for (int by = 0; by < bins_h; ++by) {
            if (!(row[by].present >> warp & 1)) continue;
            const A row_weight = row[by].weight[warp];
            for (int bx = 0; bx < bins_w; ++bx) {
              if (column[bx].present == 0) continue;
              A value[kPack];
              load_pack(of_roi + (by * bins_w + bx) * channels, value);
#pragma unroll
              for (int x = 0; x < kTile; ++x) {
                const A weight = row_weight * column[bx].weight[x];
#pragma unroll
                for (int v = 0; v < kPack; ++v) sum[x][v] = fma(weight, value[v], sum[x][v]);
              }
            }
          }
        }
      __syncthreads();  // all are done with these weights
    }
  }
  const int row = first_row + warp;
  if (c >= channels || row >= height) return;
  T* out = pyramid.map[level] + (image * height + row) * width * channels + c;
#pragma unroll
  for (int x = 0; x < kTile; ++x)
    if (first_column + x < width) store_pack(out + (first_column + x) * channels, sum[x]);
}

// ---- Host side ----

template <typename T, typename A, typename Data>
Pyramid<T, A> pyramid_of(std::vector<Tensor>& maps, const std::vector<double>& scales, Data data) {
  STD_TORCH_CHECK(maps.size() <= kMaxLevels, "roi_align: features must be of at most ", kMaxLevels,
                  " levels on CUDA, got ", maps.size());
  Pyramid<T, A> pyramid = {};
  pyramid.levels = int(maps.size());
  pyramid.images = maps[0].size(0), pyramid.channels = maps[0].size(1);
  for (size_t l = 0; l < maps.size(); ++l) {
    STD_TORCH_CHECK(
        maps[l].size(2) <= INT32_MAX && maps[l].size(3) <= INT32_MAX &&
            pyramid.images <= INT32_MAX / kMaxLevels,
        "roi_align: features must have less than 2^31 rows and columns and 2^28 images");
    pyramid.map[l] = data(maps[l]);
    pyramid.height[l] = int(maps[l].size(2)), pyramid.width[l] = int(maps[l].size(3));
    pyramid.scale[l] = A(scales[l]);
  }
  return pyramid;
}

template <typename T, typename A>
int64_t longest_side(const Pyramid<T, A>& pyramid) {
  return std::max(*std::max_element(pyramid.height, pyramid.height + kMaxLevels),
                  *std::max_element(pyramid.width, pyramid.width + kMaxLevels));
}

template <typename T, typename A>
bool maps_fit_packs(const Pyramid<T, A>& pyramid, int count) {
  bool fit = true;
  for (int l = 0; l < pyramid.levels; ++l)
    fit &= fits_packs(pyramid.map[l], pyramid.channels, count);
  return fit;
}

void check_bins(int64_t bins_h, int64_t bins_w) {
  // Within these, products of bins fit an int.
  STD_TORCH_CHECK(bins_h > 0 && bins_w > 0 && bins_h <= 4096 && bins_w <= 4096,
                  "roi_align: bins must lie in [1, 4096] on CUDA, got ", bins_h, " x ", bins_w);
}

}  // namespace

Tensor roi_align_cuda(std::vector<Tensor> features, Tensor boxes, Tensor image_index,
                      std::vector<double> scales, int64_t bins_h, int64_t bins_w,
                      int64_t sampling_ratio, bool aligned, double canonical_size,
                      int64_t canonical_level) {
  check_roi_align(features, boxes, image_index, scales);
  check_bins(bins_h, bins_w);
  const OnDevice device(boxes);
  const ScalarType dtype = features[0].scalar_type();
  const int64_t rois = boxes.size(0), channels = features[0].size(1);
  for (Tensor& map : features) map = channels_last(map);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  Tensor out =
      new_tensor(boxes, {rois, channels, bins_h, bins_w}, dtype, MemoryFormat::ChannelsLast);
  if (out.numel() == 0) return out;
  dispatch_floating(dtype, "roi_align", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const auto pyramid = pyramid_of<const T, A>(
        features, scales, [](const Tensor& map) { return map.const_data_ptr<T>(); });
    const Sampling<A> sampling = {int(bins_h), int(bins_w),       sampling_ratio,
                                  aligned,     A(canonical_size), canonical_level};
    T* out_data = out.mutable_data_ptr<T>();

    // Enough blocks to fill the device, also for few RoIs.
    const int64_t wanted = 4 * device_attribute(device, cudaDevAttrMultiProcessorCount) / rois + 1;
    const int64_t rows_per_block = ceil_div(bins_h, std::min(wanted, bins_h));
    // A bin with the most samples has so many taps; most RoIs need a fraction.
    const int64_t most = sampling_ratio > 0
                             ? 2 * sampling_ratio
                             : std::min(2 * kMaxSamplesPerBin, longest_side(pyramid));
    const int budget = int(std::max<int64_t>(most, 256));
    const size_t shared_bytes = size_t(budget) * 2 * (sizeof(Tap<A>) + sizeof(int));
    const auto run = [&](auto kernel) {
      launch(device, kernel, {unsigned(rois), unsigned(ceil_div(bins_h, rows_per_block)), 1},
             kThreads, shared_bytes, pyramid, sampling, boxes.const_data_ptr<A>(),
             image_index.const_data_ptr<int64_t>(), int(rows_per_block), budget, out_data);
    };
    constexpr int kPack = kPerWord<T>;
    if (maps_fit_packs(pyramid, kPack) && fits_packs(out_data, channels, kPack))
      run(roi_align_kernel<T, A, kPack>);
    else
      run(roi_align_kernel<T, A, 1>);
  });
  return out;
}

std::vector<Tensor> roi_align_backward_cuda(Tensor grad, std::vector<Tensor> features, Tensor boxes,
                                            Tensor image_index, std::vector<double> scales,
                                            int64_t sampling_ratio, bool aligned,
                                            double canonical_size, int64_t canonical_level) {
  check_roi_align(features, boxes, image_index, scales);
  check_shape(grad, {boxes.size(0), features[0].size(1), -1, -1}, "roi_align: grad (K, C, h, w)");
  check_bins(grad.size(2), grad.size(3));
  const OnDevice device(grad);
  const ScalarType dtype = grad.scalar_type();
  const int64_t rois = grad.size(0), channels = grad.size(1);
  grad = channels_last(grad);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  std::vector<Tensor> grads;
  for (const Tensor& map : features)
    grads.push_back(new_tensor(grad, {map.size(0), channels, map.size(2), map.size(3)}, dtype,
                               MemoryFormat::ChannelsLast));
  Tensor reaches =
      new_tensor(grad, {rois, int64_t(sizeof(RoiReach) / sizeof(int))}, ScalarType::Int);

  dispatch_floating(dtype, "roi_align_backward", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const auto pyramid = pyramid_of<T, A>(
        grads, scales, [](Tensor& map) { return map.template mutable_data_ptr<T>(); });
    const Sampling<A> sampling = {int(grad.size(2)), int(grad.size(3)), sampling_ratio,
                                  aligned,           A(canonical_size), canonical_level};
    const T* grad_data = grad.const_data_ptr<T>();
    const A* box_data = boxes.const_data_ptr<A>();
    auto* reach_data = reinterpret_cast<RoiReach*>(reaches.mutable_data_ptr<int32_t>());
    launch(device, find_reaches<T, A>, {unsigned(ceil_div(rois, kThreads)), 1, 1}, kThreads, 0,
           pyramid, sampling, box_data, image_index.const_data_ptr<int64_t>(), rois, reach_data);

    int64_t tiles = 0;
    for (int l = 0; l < pyramid.levels; ++l)
      tiles += ceil_div(pyramid.height[l], kTile) * ceil_div(pyramid.width[l], kTile);
    tiles *= pyramid.images;
    STD_TORCH_CHECK(tiles <= INT32_MAX, "roi_align: features have too many cells for CUDA");
    // The weights of as many RoIs as fit beside those of other blocks.
    constexpr size_t kWeightBytes = 24 << 10;
    const size_t bytes_per_roi = sizeof(TileWeights<A>) * (sampling.bins_h + sampling.bins_w);
    const int rois_at_once = int(std::clamp<size_t>(kWeightBytes / bytes_per_roi, 1, 32));
    const auto run = [&](auto kernel, int pack) {
      launch(device, kernel, {unsigned(tiles), unsigned(ceil_div(channels, kWarpSize * pack)), 1},
             kThreads, rois_at_once * bytes_per_roi, pyramid, sampling, box_data, reach_data, rois,
             rois_at_once, grad_data);
    };
    constexpr int kPack = kPerWord<T>;
    if (maps_fit_packs(pyramid, kPack) && fits_packs(grad_data, channels, kPack))
      run(roi_align_backward_kernel<T, A, kPack>, kPack);
    else
      run(roi_align_backward_kernel<T, A, 1>, 1);
  });
  return grads;
}

REGISTER_CUDA(m) {
  m.impl("roi_align", TORCH_BOX(&roi_align_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward_cuda));
}

}  // namespace mrcnn
