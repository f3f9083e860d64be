// The gradient of RoIAlign on the GPU: each block gathers, for one tile of the maps, the gradients
// of all RoIs that reach it.
#include <algorithm>
#include <vector>

#include "roi_align/roi_align.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;    // of a block that finds the reach of RoIs
constexpr int kTile = 8;         // cells along a side
constexpr int kCellsOfWarp = 4;  // adjacent cells that a warp sums
constexpr int kTileWarps = kTile * kTile / kCellsOfWarp, kTileThreads = kTileWarps * kWarpSize;
// Blocks per multiprocessor that have enough registers.
template <typename A>
constexpr int kTileBlocks = 8 / sizeof(A);

// Some cells of the map of one image and level, and the RoIs that reach them.
struct Tile {
  int image, level;
  int first[2], cells[2];  // first cell of the tile, cells of the map; along rows and columns
  int listed, rois[kTileThreads];
  int warp_count[kTileWarps];  // number of RoIs listed by each warp

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

// The cells that one RoI adds to, from begin to end, in map `map` (image * levels + level; -1 for
// none).
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

// Computes the range of cells between the outermost samples, a superset of those with weight.
template <typename A>
__device__ __forceinline__ void reach_of(const RoiAxis<A>& axis, int bins, int cells, int& begin,
                                         int& end) {
  const A one = axis.position(0, 0), other = axis.position(bins - 1, axis.samples - 1);
  const A low = one < other ? one : other, high = one < other ? other : one;
  begin = end = 0;
  // Negated, so that NaN reaches nothing.
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

// The weight of each cell of a tile in one bin, along one axis, and a mask of the nonzero ones.
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
#pragma unroll 1  // keeps registers for the sums
  for (int sample = 0; sample < samples; ++sample) {
    LinearTap<A, int> tap;
    if (!linear_tap(axis.position(bin, sample), cells, tap)) continue;
    add(tap.low, tap.weight_low / samples);
    add(tap.high, tap.weight_high / samples);
  }
}

// Calls visit(first, bits) for 32 of `count` numbers at a time; bit i is set if first + i is
// chosen. All lanes of a warp must call it.
template <typename Chosen, typename Visit>
__device__ __forceinline__ void visit_chosen(int count, const Chosen& chosen, const Visit& visit) {
  for (int first = 0; first < count; first += kWarpSize) {
    const int mine = first + int(threadIdx.x % kWarpSize);
    const unsigned bits = __ballot_sync(kAllLanes, mine < count && chosen(mine));
    if (bits != 0) visit(first, bits);
  }
}

// One block sums the gradient of one tile, for some channels, over all RoIs that reach it, in the
// order of their indices. No atomics are needed, results are bit-identical from run to run, and
// each cell is written once.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<A>)
    roi_align_backward_kernel(const __grid_constant__ Pyramid<T, A> pyramid, int bins_h, int bins_w,
                              const RoiReach* reaches, const RoiAxes<A>* axes, int rois,
                              int rois_at_once, const T* grad) {
  DYNAMIC_SHARED(TileWeights<A>, tile_weights);
  SHARED(Tile, tile);  // saves registers
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int bins = bins_h + bins_w;
  const unsigned channels = pyramid.channels;
  const unsigned c = (blockIdx.y * kWarpSize + lane) * kPack;
  const T* lane_grad = grad + (c < channels ? c : 0);  // lanes past the end do not store
  if (threadIdx.x == 0) tile.find(pyramid, blockIdx.x);
  __syncthreads();

  // This warp sums kCellsOfWarp cells, starting at (x, y) of the tile.
  const int x = warp * kCellsOfWarp % kTile, y = warp * kCellsOfWarp / kTile;
  constexpr unsigned kOfWarp = (1u << kCellsOfWarp) - 1;
  A sum[kCellsOfWarp][kPack] = {};
  for (int start = 0; start < rois; start += kTileThreads) {
    const int mine = start + threadIdx.x;
    const bool reaches_tile = mine < rois && reaches[mine].meets(tile, pyramid.levels);
    const unsigned lanes = __ballot_sync(kAllLanes, reaches_tile);
    if (lane == 0) tile.warp_count[warp] = __popc(lanes);
    const int listed = __syncthreads_count(reaches_tile);
    if (threadIdx.x == 0) tile.listed = listed;
    if (reaches_tile) {
      int position = __popc(lanes & ((1u << lane) - 1));
      for (int w = 0; w < warp; ++w) position += tile.warp_count[w];
      tile.rois[position] = mine;
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
        const T* roi_grad = lane_grad + int64_t(tile.rois[done + i]) * bins_h * bins_w * channels;
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
                        load_pack(roi_grad + uint64_t(unsigned(by * bins_w + bx)) * channels,
                                  value);
#pragma unroll
                        for (int i = 0; i < kCellsOfWarp; ++i) {
                          const A weight = word[i / kWord][i % kWord] * row_weight;
#pragma unroll
                          for (int v = 0; v < kPack;
                               ++v)  // so that infinity does not spread to cells without weight
                            sum[i][v] = weight != 0 ? fma(weight, value[v], sum[i][v]) : sum[i][v];
                        }
                      }
                    }
                  });
            });
      }
      __syncthreads();  // all threads have read these weights
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

}  // namespace

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
    // The weights of as many RoIs as shared memory allows, given the other blocks.
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

REGISTER_CUDA(m) { m.impl("roi_align_backward", BOX(roi_align_backward_cuda)); }

}  // namespace mrcnn
