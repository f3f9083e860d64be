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
// Of a multiprocessor, for which registers suffice.
template <typename A>
constexpr int kBlocks = 16 / sizeof(A);
constexpr int kMaxLevels = 8;
constexpr int kTapsAtOnce = 4;  // whose loads do not wait for each other

// The maps of all levels (N, H, W, C), passed to kernels by value.
template <typename T, typename A>
struct Pyramid {
  T* map[kMaxLevels];
  int height[kMaxLevels], width[kMaxLevels];
  A scale[kMaxLevels];
  int levels, channels;
  int64_t images;
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

// What one RoI reads: its level and image, and where; nothing if it pools to zero.
template <typename T, typename A>
struct RoiPlan {
  bool pools;
  int level;
  int64_t start;  // of the image in the map
  RoiAxis<A> rows, columns;

  __device__ __forceinline__ void make(const Pyramid<T, A>& pyramid, const Sampling<A>& sampling,
                                       const A* boxes, int64_t image, int64_t roi) {
    const Box<A> box = load_box(boxes + roi * 4);
    // An image that is not there is told on the host only: here it would need a read-back.
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
  const int samples = int(axis.samples);
  for (int sample = 0; sample < samples; ++sample) {
    LinearTap<A, int> tap;
    if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
    add(tap.low, tap.weight_low / samples);
    if (tap.weight_high != 0) add(tap.high, tap.weight_high / samples);
  }
  return count;
}

// How many taps there is room for in each bin, and how many bins are taken at a time.
struct TapParts {
  int row_most, column_most, rows, columns;
};

// Of the bin that each warp pools, where each lane has computed one.
template <typename A>
struct BinTaps {
  Tap<A> of_lane[kWarps][kWarpSize];
};
static_assert(kWarpSize % kTapsAtOnce == 0);

// One block pools some rows of bins of one RoI: its threads merge the taps of the bins along each
// axis, then a warp takes a bin and its lanes the channels. `budget` taps fit for each axis; where
// bins have more, they are taken in parts.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocks<A>)
    roi_align_kernel(const __grid_constant__ Pyramid<const T, A> pyramid,
                     const __grid_constant__ Sampling<A> sampling, const A* boxes,
                     const int64_t* image_index, int rows_per_block, int budget, T* out) {
  // Once for all threads, and not in their registers.
  using Plan = RoiPlan<const T, A>;
  SHARED(Plan, plan);
  SHARED(TapParts, parts);
  SHARED(BinTaps<A>, bin_taps);
  DYNAMIC_SHARED(Tap<A>, row_taps);
  Tap<A>* column_taps = row_taps + budget;
  int* row_count = reinterpret_cast<int*>(column_taps + budget);
  int* column_count = row_count + budget;

  const int64_t roi = blockIdx.x;
  const unsigned channels = pyramid.channels;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int bins_w = sampling.bins_w;
  const int first_row = blockIdx.y * rows_per_block;
  const int last_row = min(first_row + rows_per_block, sampling.bins_h);

  if (threadIdx.x == 0) {
    plan.make(pyramid, sampling, boxes, image_index[roi], roi);
    if (plan.pools) {
      parts.row_most = taps_per_bin(plan.rows, sampling.ratio, pyramid.height[plan.level]);
      parts.column_most = taps_per_bin(plan.columns, sampling.ratio, pyramid.width[plan.level]);
      parts.rows = min(last_row - first_row, budget / parts.row_most);
      parts.columns = min(bins_w, budget / parts.column_most);
    }
  }
  __syncthreads();
  if (!plan.pools) {
    const int64_t row = int64_t(bins_w) * channels;
    const int64_t start = (roi * sampling.bins_h + first_row) * row;
    for (int64_t i = threadIdx.x; i < (last_row - first_row) * row; i += kThreads)
      out[start + i] = T(A(0));
    return;
  }
  const int height = pyramid.height[plan.level], width = pyramid.width[plan.level];
  const T* map = pyramid.map[plan.level] + plan.start;
  for (int by0 = first_row; by0 < last_row; by0 += parts.rows)
    for (int bx0 = 0; bx0 < bins_w; bx0 += parts.columns) {
      const int rows = min(parts.rows, last_row - by0), columns = min(parts.columns, bins_w - bx0);
      __syncthreads();  // all are done with the taps of the part before
      for (int i = threadIdx.x; i < rows + columns; i += kThreads) {
        const bool is_row = i < rows;
        const int j = is_row ? i : i - rows;
        Tap<A>* taps = is_row ? row_taps + j * parts.row_most : column_taps + j * parts.column_most;
        (is_row ? row_count : column_count)[j] =
            merge_taps(is_row ? plan.rows : plan.columns, (is_row ? by0 : bx0) + j,
                       is_row ? height : width, taps);
      }
      __syncthreads();
      for (int bin = warp; bin < rows * columns; bin += kWarps) {
        const int by = bin / columns, bx = bin % columns;
        const Tap<A>* row = row_taps + by * parts.row_most;
        const Tap<A>* column = column_taps + bx * parts.column_most;
        const int taps_in_row = column_count[bx], taps = row_count[by] * taps_in_row;
        const int64_t place = (roi * sampling.bins_h + by0 + by) * bins_w + bx0 + bx;
        for (unsigned first = 0; first < channels; first += kWarpSize * kPack) {
          const unsigned c = first + lane * kPack;
          const T* cells = map + (c < channels ? c : 0);
          A sum[kPack] = {};
          for (int done = 0; done < taps; done += kWarpSize) {
            const int tap = done + lane < taps ? done + lane : 0;
            const Tap<A>& y = row[tap / taps_in_row];
            const Tap<A>& x = column[tap % taps_in_row];
            __syncwarp();  // all are done with the taps before
            bin_taps.of_lane[warp][lane] = {y.cell * width + x.cell, y.weight * x.weight};
            __syncwarp();
            const int count = min(taps - done, kWarpSize);
#pragma unroll 1  // more loads would take the registers of other blocks
            for (int j = 0; j < count; j += kTapsAtOnce) {
              A weight[kTapsAtOnce], value[kTapsAtOnce][kPack];
#pragma unroll
              for (int i = 0; i < kTapsAtOnce; ++i) {
                const Tap<A> next = bin_taps.of_lane[warp][j + i];
                weight[i] = next.weight;
                load_pack(cells + uint64_t(unsigned(next.cell)) * channels, value[i]);
              }
#pragma unroll
              for (int i = 0; i < kTapsAtOnce; ++i)
#pragma unroll
                for (int v = 0; v < kPack; ++v)
                  sum[v] = j + i < count ? fma(weight[i], value[i][v], sum[v]) : sum[v];
            }
          }
          if (c < channels) store_pack(out + place * channels + c, sum);
        }
      }
    }
}

// ---- Backward ----

constexpr int kTile = 8;         // cells along a side
constexpr int kCellsOfWarp = 4;  // side by side
constexpr int kTileWarps = kTile * kTile / kCellsOfWarp, kTileThreads = kTileWarps * kWarpSize;
// Of a multiprocessor, for which registers suffice.
template <typename A>
constexpr int kTileBlocks = 8 / sizeof(A);

// Some cells of the map of one image and level, and the RoIs that reach them.
struct Tile {
  int image, level;
  int first[2], cells[2];  // of the tile and of the map, along rows and along columns
  int listed, rois[kTileThreads];
  int of_warp[kTileWarps];  // how many each warp has found

  template <typename T, typename A>
  __device__ __forceinline__ void find(const Pyramid<T, A>& pyramid, int64_t index) {
    for (level = 0;; ++level) {  // the grid holds the tiles of all images, level by level
      const int64_t height = pyramid.height[level], width = pyramid.width[level];
      const int64_t tiles_y = (height + kTile - 1) / kTile, tiles_x = (width + kTile - 1) / kTile;
      const int64_t tiles = tiles_y * tiles_x * pyramid.images;
      if (index < tiles) {
        image = int(index / (tiles_x * tiles_y));
        first[0] = int(index / tiles_x % tiles_y) * kTile, cells[0] = int(height);
        first[1] = int(index % tiles_x) * kTile, cells[1] = int(width);
        return;
      }
      index -= tiles;
    }
  }
};

// The cells that one RoI adds to: those of map `map` (image * levels + level, -1 of none) from
// begin up to end.
struct RoiReach {
  int map, row_begin, row_end, column_begin, column_end;

  __device__ __forceinline__ bool meets(const Tile& tile, int levels) const {
    return map == tile.image * levels + tile.level && row_begin < tile.first[0] + kTile &&
           row_end > tile.first[0] && column_begin < tile.first[1] + kTile &&
           column_end > tile.first[1];
  }
};

template <typename A>
struct RoiAxes {
  RoiAxis<A> along[2];  // rows and columns
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
                 const int64_t* image_index, int64_t rois, RoiReach* reaches, RoiAxes<A>* axes) {
  const int64_t roi = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (roi >= rois) return;
  RoiReach reach = {-1, 0, 0, 0, 0};
  RoiPlan<T, A> plan;
  plan.make(pyramid, sampling, boxes, image_index[roi], roi);
  if (plan.pools) {
    reach.map = int(image_index[roi]) * pyramid.levels + plan.level;
    reach_of(plan.rows, sampling.bins_h, pyramid.height[plan.level], reach.row_begin,
             reach.row_end);
    reach_of(plan.columns, sampling.bins_w, pyramid.width[plan.level], reach.column_begin,
             reach.column_end);
    axes[roi] = {plan.rows, plan.columns};
  }
  reaches[roi] = reach;
}

// The weight that one bin gives to each cell of a tile, along one axis, and which are not 0.
template <typename A>
struct alignas(16) TileWeights {
  A weight[kTile];
  unsigned present;
};

template <typename A>
__device__ __forceinline__ void weigh_tile(const RoiAxis<A>& axis, int bin, int cells, int first,
                                           TileWeights<A>& out) {
  out = {};
  const auto add = [&](int cell, A weight) {
    if (cell < first || cell >= first + kTile || weight == 0) return;
    out.weight[cell - first] += weight;
    out.present |= 1u << (cell - first);
  };
  const int samples = int(axis.samples);
#pragma unroll 1  // registers belong to the sums
  for (int sample = 0; sample < samples; ++sample) {
    LinearTap<A, int> tap;
    if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
    add(tap.low, tap.weight_low / samples);
    add(tap.high, tap.weight_high / samples);
  }
}

// Calls visit(first, bits) for 32 of `count` numbers at a time, where the bits say which of the
// numbers from `first` on are chosen. All lanes of a warp call it alike.
template <typename Chosen, typename Visit>
__device__ __forceinline__ void visit_chosen(int count, const Chosen& chosen, const Visit& visit) {
  for (int first = 0; first < count; first += kWarpSize) {
    const int mine = first + int(threadIdx.x % kWarpSize);
    const unsigned bits = __ballot_sync(kAllLanes, mine < count && chosen(mine));
    if (bits != 0) visit(first, bits);
  }
}

// One block sums the gradient of one tile, for some channels, over all RoIs that reach it, in the
// order of their indices: no atomics, the same bits every time, and every cell is written once.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<A>)
    roi_align_backward_kernel(const __grid_constant__ Pyramid<T, A> pyramid, int bins_h, int bins_w,
                              const RoiReach* reaches, const RoiAxes<A>* axes, int rois,
                              int rois_at_once, const T* grad) {
  DYNAMIC_SHARED(TileWeights<A>, tile_weights);
  SHARED(Tile, tile);  // once for all threads, and not in their registers
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int bins = bins_h + bins_w;
  const unsigned channels = pyramid.channels;
  const unsigned c = (blockIdx.y * kWarpSize + lane) * kPack;
  const T* of_lane = grad + (c < channels ? c : 0);  // lanes past the end compute and do not store
  if (threadIdx.x == 0) tile.find(pyramid, blockIdx.x);
  __syncthreads();

  // This warp sums over kCellsOfWarp cells from (x, y) of the tile on.
  const int x = warp * kCellsOfWarp % kTile, y = warp * kCellsOfWarp / kTile;
  constexpr unsigned kOfWarp = (1u << kCellsOfWarp) - 1;
  A sum[kCellsOfWarp][kPack] = {};
  for (int start = 0; start < rois; start += kTileThreads) {
    const int mine = start + threadIdx.x;
    const bool reaches_tile = mine < rois && reaches[mine].meets(tile, pyramid.levels);
    const unsigned lanes = __ballot_sync(kAllLanes, reaches_tile);
    if (lane == 0) tile.of_warp[warp] = __popc(lanes);
    const int listed = __syncthreads_count(reaches_tile);
    if (threadIdx.x == 0) tile.listed = listed;
    if (reaches_tile) {
      int place = __popc(lanes & ((1u << lane) - 1));
      for (int w = 0; w < warp; ++w) place += tile.of_warp[w];
      tile.rois[place] = mine;
    }
    __syncthreads();
    for (int done = 0; done < tile.listed; done += rois_at_once) {
      const int count = min(rois_at_once, tile.listed - done);
      for (int i = threadIdx.x; i < count * bins; i += kTileThreads) {
        const int64_t roi = tile.rois[done + i / bins];
        const int bin = i % bins, axis = bin < bins_h ? 0 : 1;
        weigh_tile(axes[roi].along[axis], axis == 0 ? bin : bin - bins_h, tile.cells[axis],
                   tile.first[axis], tile_weights[i]);
      }
      __syncthreads();
      for (int i = 0; i < count; ++i) {
        const TileWeights<A>* row = tile_weights + i * bins;
        const TileWeights<A>* column = row + bins_h;
        const T* of_roi = of_lane + int64_t(tile.rois[done + i]) * bins_h * bins_w * channels;
        visit_chosen(
            bins_w, [&](int bx) { return column[bx].present >> x & kOfWarp; },
            [&](int bx0, unsigned columns) {
              visit_chosen(
                  bins_h, [&](int by) { return row[by].present >> y & 1; },
                  [&](int by0, unsigned rows) {
                    for (; rows != 0; rows &= rows - 1) {
                      const int by = by0 + __ffs(int(rows)) - 1;
                      const A row_weight = row[by].weight[y];
                      for (unsigned left = columns; left != 0; left &= left - 1) {
                        const int bx = bx0 + __ffs(int(left)) - 1;
                        constexpr int kWord = kPerWord<A>;
                        A word[kCellsOfWarp / kWord][kWord], value[kPack];
#pragma unroll
                        for (int i = 0; i < kCellsOfWarp / kWord; ++i)
                          load_pack(column[bx].weight + x + i * kWord, word[i]);
                        load_pack(of_roi + uint64_t(unsigned(by * bins_w + bx)) * channels, value);
#pragma unroll
                        for (int i = 0; i < kCellsOfWarp; ++i) {
                          const A weight = word[i / kWord][i % kWord] * row_weight;
#pragma unroll
                          for (int v = 0; v < kPack; ++v)  // infinity stays where it has weight
                            sum[i][v] = weight != 0 ? fma(weight, value[v], sum[i][v]) : sum[i][v];
                        }
                      }
                    }
                  });
            });
      }
      __syncthreads();  // all are done with these weights
    }
  }
  const int row = tile.first[0] + y, column = tile.first[1] + x;
  const int height = tile.cells[0], width = tile.cells[1];
  if (c >= channels || row >= height) return;
  T* out = pyramid.map[tile.level] +
           ((int64_t(tile.image) * height + row) * width + column) * channels + c;
#pragma unroll
  for (int i = 0; i < kCellsOfWarp; ++i)
    if (column + i < width) store_pack(out + int64_t(i) * channels, sum[i]);
}

// ---- Host side ----

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

void check_sampling(int64_t bins_h, int64_t bins_w, int64_t sampling_ratio) {
  // Within these, products of bins and numbers of samples fit an int.
  STD_TORCH_CHECK(bins_h > 0 && bins_w > 0 && bins_h <= 4096 && bins_w <= 4096,
                  "roi_align: bins must lie in [1, 4096] on CUDA, got ", bins_h, " x ", bins_w);
  STD_TORCH_CHECK(sampling_ratio <= kMaxSamplesPerBin, "roi_align: sampling_ratio must be at most ",
                  kMaxSamplesPerBin, " on CUDA, got ", sampling_ratio);
}

}  // namespace

Tensor roi_align_cuda(std::vector<Tensor> features, Tensor boxes, Tensor image_index,
                      std::vector<double> scales, int64_t bins_h, int64_t bins_w,
                      int64_t sampling_ratio, bool aligned, double canonical_size,
                      int64_t canonical_level) {
  check_roi_align(features, boxes, image_index, scales);
  check_sampling(bins_h, bins_w, sampling_ratio);
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
  check_sampling(grad.size(2), grad.size(3), sampling_ratio);
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
    auto* reach_data = reinterpret_cast<RoiReach*>(reaches.mutable_data_ptr<int32_t>());
    Tensor axes = new_tensor(grad, {rois, int64_t(sizeof(RoiAxes<A>))}, ScalarType::Byte);
    auto* axis_data = reinterpret_cast<RoiAxes<A>*>(axes.mutable_data_ptr<uint8_t>());
    launch(device, find_reaches<T, A>, {unsigned(ceil_div(rois, kThreads)), 1, 1}, kThreads, 0,
           pyramid, sampling, boxes.const_data_ptr<A>(), image_index.const_data_ptr<int64_t>(),
           rois, reach_data, axis_data);

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
             kTileThreads, rois_at_once * bytes_per_roi, pyramid, sampling.bins_h, sampling.bins_w,
             reach_data, axis_data, int(rois), rois_at_once, grad_data);
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
