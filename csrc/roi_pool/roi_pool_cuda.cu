// RoIPool on the GPU, over channels_last maps: each warp takes a bin, and its lanes the channels.
#include <tuple>

#include "common/cuda.cuh"
#include "common/rois.h"
#include "roi_pool/roi_pool.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kCellsAtOnce = 4;  // cells loaded together, to overlap their latency
// Blocks per multiprocessor that have enough registers.
template <typename A>
constexpr int kBlocks = 16 / sizeof(A);

template <typename T, typename A>
struct Pooling {
  const T* maps;
  int height, width;
  int64_t images, channels;
  const A* boxes;
  const int64_t* image_index;
  A scale;
  int64_t bins_h, bins_w;
};

// One block pools some rows of bins of one RoI; `argmax` may be nullptr.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocks<A>)
    roi_pool_kernel(const __grid_constant__ Pooling<T, A> pooling, int64_t rows_per_block, T* out,
                    int32_t* argmax) {
  const int64_t roi = blockIdx.x, channels = pooling.channels, bins_w = pooling.bins_w;
  const int64_t image = pooling.image_index[roi];
  const int height = pooling.height, width = pooling.width;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const Box<A> box = load_box(pooling.boxes + roi * 4);
  // Only the CPU op reports an image index out of range: on a GPU, that would need a read-back.
  const bool pools = image >= 0 && image < pooling.images && finite(box);
  const auto rows = pool_axis(box.y1, box.y2, pooling.scale, pooling.bins_h);
  const auto columns = pool_axis(box.x1, box.x2, pooling.scale, bins_w);
  const T* map = pooling.maps + (pools ? image : 0) * height * width * channels;

  const int64_t first_row = blockIdx.y * rows_per_block;
  const int64_t end = min(first_row + rows_per_block, pooling.bins_h) * bins_w;
  for (int64_t bin = first_row * bins_w + warp; bin < end; bin += kWarps) {
    const int64_t by = bin / bins_w, bx = bin % bins_w;
    const int top = int(rows.begin(by, height)), bottom = int(rows.end(by, height));
    const int left = int(columns.begin(bx, width)), right = int(columns.end(bx, width));
    const bool empty = !pools || top >= bottom || left >= right;
    for (int64_t c = lane * kPack; c < channels; c += kWarpSize * kPack) {
      A most[kPack];
      int32_t from[kPack];
#pragma unroll
      for (int v = 0; v < kPack; ++v) most[v] = empty ? A(0) : -A(INFINITY), from[v] = -1;
      if (!empty)
        for (int y = top; y < bottom; ++y) {
          const T* cells = map + int64_t(y) * width * channels + c;
#pragma unroll 1  // more loads would need too many registers
          for (int x = left; x < right; x += kCellsAtOnce) {
            A value[kCellsAtOnce][kPack];
#pragma unroll
            for (int i = 0; i < kCellsAtOnce; ++i)  // repeating the last cell changes nothing
              load_pack(cells + int64_t(min(x + i, right - 1)) * channels, value[i]);
#pragma unroll
            for (int i = 0; i < kCellsAtOnce; ++i)
#pragma unroll
              for (int v = 0; v < kPack; ++v)  // the first of equal cells wins; NaN never wins
                if (value[i][v] > most[v]) most[v] = value[i][v], from[v] = y * width + x + i;
          }
        }
      const int64_t position = (roi * pooling.bins_h * bins_w + bin) * channels + c;
      store_pack(out + position, most);
      if (argmax != nullptr) store_pack(argmax + position, from);
    }
  }
}

// ---- Backward ----

constexpr int kTile = 8;  // cells along a side
// A warp sums the gradient of one tile and 32 channels; its neighbours take the next channels.
constexpr int kTileThreads = 64;
constexpr int kTileSums = kTile * kTile * kTileThreads;
// Blocks per multiprocessor that fit the shared memory.
constexpr int kTileBlocks = 13;

// A range of cells of a map, from begin to end.
struct alignas(16) Reach {
  int row_begin, row_end, column_begin, column_end;

  __device__ __forceinline__ void add(const Reach& other) {
    row_begin = min(row_begin, other.row_begin), row_end = max(row_end, other.row_end);
    column_begin = min(column_begin, other.column_begin);
    column_end = max(column_end, other.column_end);
  }
  __device__ __forceinline__ bool meets_tile(int first_row, int first_column) const {
    return row_begin < first_row + kTile && row_end > first_row &&
           column_begin < first_column + kTile && column_end > first_column;
  }
};
constexpr Reach kNowhere = {INT32_MAX, 0, INT32_MAX, 0};

// The largest values of a bin's channels come from different cells. Finds the rectangle that
// contains these cells, for each bin (K, bins) and for each RoI (K).
__global__ void __launch_bounds__(kThreads)
    find_reaches(const int32_t* argmax, int64_t bins, int64_t channels, int cells, int width,
                 Reach* bin_reach, Reach* roi_reach) {
  SHARED(Reach[kWarps], warp_reach);
  const int64_t roi = blockIdx.x;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  Reach all = kNowhere;
  for (int64_t bin = warp; bin < bins; bin += kWarps) {
    Reach reach = kNowhere;
    for (int64_t c = lane; c < channels; c += kWarpSize) {
      const int cell = argmax[(roi * bins + bin) * channels + c];
      if (cell < 0 || cell >= cells) continue;
      const int row = cell / width, column = cell % width;
      reach.add({row, row + 1, column, column + 1});
    }
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      reach.add({__shfl_xor_sync(kAllLanes, reach.row_begin, step),
                 __shfl_xor_sync(kAllLanes, reach.row_end, step),
                 __shfl_xor_sync(kAllLanes, reach.column_begin, step),
                 __shfl_xor_sync(kAllLanes, reach.column_end, step)});
    }
    if (lane == 0) bin_reach[roi * bins + bin] = reach;
    all.add(reach);
  }
  if (lane == 0) warp_reach[warp] = all;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) all.add(warp_reach[w]);
  roi_reach[roi] = all;
}

template <typename T>
struct PoolGradient {
  const T* grad;
  const int32_t* argmax;
  const int64_t* image_index;
  const Reach *bin_reach, *roi_reach;
  int64_t rois, bins, channels;
  int height, width, tiles_x, tiles_y;
};

// Calls visit(first, bits) for 32 of `count` numbers at a time, in order; bit i is set if `chosen`
// accepts first + i. All lanes of a warp must call it.
template <typename Chosen, typename Visit>
__device__ __forceinline__ void visit_chosen(int64_t count, const Chosen& chosen,
                                             const Visit& visit) {
  for (int64_t first = 0; first < count; first += kWarpSize) {
    const int64_t mine = first + threadIdx.x % kWarpSize;
    visit(first, __ballot_sync(kAllLanes, mine < count && chosen(mine)));
  }
}

// Each lane adds the gradients that reach the tile to its own sums in shared memory, RoI by RoI and
// bin by bin. No atomics are needed, the order is that of the CPU, and each cell is written once.
template <typename T, typename A>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks)
    roi_pool_backward_kernel(const __grid_constant__ PoolGradient<T> gradient, T* out) {
  DYNAMIC_SHARED(A, sums);  // (cells of the tile, threads)
  const int64_t channels = gradient.channels, bins = gradient.bins;
  const int64_t c = int64_t(blockIdx.y) * kTileThreads + threadIdx.x;
  const int width = gradient.width;
  const int64_t tiles = int64_t(gradient.tiles_x) * gradient.tiles_y;
  const int64_t image = blockIdx.x / tiles;
  const int first_row = int(blockIdx.x % tiles / gradient.tiles_x) * kTile;
  const int first_column = int(blockIdx.x % gradient.tiles_x) * kTile;
  for (int i = threadIdx.x; i < kTileSums; i += kTileThreads) sums[i] = 0;

  const auto roi_reaches = [&](int64_t roi) {
    return gradient.image_index[roi] == image &&
           gradient.roi_reach[roi].meets_tile(first_row, first_column);
  };
  const auto add_roi = [&](int64_t roi) {
    const auto bin_reaches = [&](int64_t bin) {
      return gradient.bin_reach[roi * bins + bin].meets_tile(first_row, first_column);
    };
    visit_chosen(bins, bin_reaches, [&](int64_t first, unsigned chosen) {
      while (chosen != 0) {
        constexpr int kAtOnce = 4;  // loaded together, to overlap their latency
        int cell[kAtOnce];
        A value[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const bool used = chosen != 0 && c < channels;
          const int64_t bin = roi * bins + first + __ffs(int(chosen)) - 1;
          chosen &= chosen - 1;
          cell[i] = used ? gradient.argmax[bin * channels + c] : -1;
          value[i] = used ? A(gradient.grad[bin * channels + c]) : A(0);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (cell[i] < 0 || cell[i] >= gradient.height * width) continue;
          const int row = cell[i] / width - first_row, column = cell[i] % width - first_column;
          if (row >= 0 && row < kTile && column >= 0 && column < kTile)
            sums[(row * kTile + column) * kTileThreads + threadIdx.x] += value[i];
        }
      }
    });
  };
  visit_chosen(gradient.rois, roi_reaches, [&](int64_t first, unsigned chosen) {
    for (; chosen != 0; chosen &= chosen - 1) add_roi(first + __ffs(int(chosen)) - 1);
  });

  if (c >= channels) return;
  const int rows = min(kTile, gradient.height - first_row);
  const int columns = min(kTile, width - first_column);
  T* tile = out + ((image * gradient.height + first_row) * width + first_column) * channels + c;
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x)
      tile[(int64_t(y) * width + x) * channels] =
          T(sums[(y * kTile + x) * kTileThreads + threadIdx.x]);
}

// ---- Host side ----

void check_map(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height >= 0 && width >= 0 && height <= INT32_MAX && width <= INT32_MAX &&
                      height * width <= INT32_MAX,
                  "roi_pool: the map must have less than 2^31 cells, got ", height, " x ", width);
}

}  // namespace

std::tuple<Tensor, Tensor> roi_pool_cuda(Tensor features, Tensor boxes, Tensor image_index,
                                         double scale, int64_t bins_h, int64_t bins_w,
                                         bool with_argmax) {
  check_roi_pool(features, boxes, image_index, bins_h, bins_w);
  check_map(features.size(2), features.size(3));
  const OnDevice device(boxes);
  const ScalarType dtype = features.scalar_type();
  const int64_t rois = boxes.size(0), channels = features.size(1);
  features = channels_last(features);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);

  const std::vector<int64_t> sizes{rois, channels, bins_h, bins_w};
  Tensor out = new_tensor(boxes, sizes, dtype, MemoryFormat::ChannelsLast);
  Tensor argmax = with_argmax
                      ? new_tensor(boxes, sizes, ScalarType::Int, MemoryFormat::ChannelsLast)
                      : new_tensor(boxes, {0}, ScalarType::Int);
  if (out.numel() == 0) return {out, argmax};
  dispatch_floating(dtype, "roi_pool", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const Pooling<T, A> pooling = {features.const_data_ptr<T>(),
                                   int(features.size(2)),
                                   int(features.size(3)),
                                   features.size(0),
                                   channels,
                                   boxes.const_data_ptr<A>(),
                                   image_index.const_data_ptr<int64_t>(),
                                   A(scale),
                                   bins_h,
                                   bins_w};
    T* out_data = out.mutable_data_ptr<T>();
    int32_t* argmax_data = with_argmax ? argmax.mutable_data_ptr<int32_t>() : nullptr;
    // Enough blocks to fill the device, even for few RoIs.
    const int64_t blocks_per_roi =
        4 * device_attribute(device, cudaDevAttrMultiProcessorCount) / rois + 1;
    const int64_t rows_per_block = ceil_div(bins_h, std::min(blocks_per_roi, bins_h));
    const auto run = [&](auto kernel) {
      launch(device, kernel, {unsigned(rois), unsigned(ceil_div(bins_h, rows_per_block)), 1},
             kThreads, 0, pooling, rows_per_block, out_data, argmax_data);
    };
    constexpr int kPack = kPerWord<T>;
    if (fits_packs(pooling.maps, channels, kPack) && fits_packs(out_data, channels, kPack) &&
        fits_packs(argmax_data, channels, kPack))
      run(roi_pool_kernel<T, A, kPack>);
    else
      run(roi_pool_kernel<T, A, 1>);
  });
  return {out, argmax};
}

Tensor roi_pool_backward_cuda(Tensor grad, Tensor argmax, Tensor image_index, int64_t images,
                              int64_t height, int64_t width) {
  check_roi_pool_gradient(grad, argmax, image_index);
  check_map(height, width);
  const OnDevice device(grad);
  const ScalarType dtype = grad.scalar_type();
  const int64_t rois = grad.size(0), channels = grad.size(1);
  const int64_t bins = grad.size(2) * grad.size(3);
  const int64_t tiles_x = ceil_div(width, kTile), tiles_y = ceil_div(height, kTile);
  STD_TORCH_CHECK(rois <= INT32_MAX && (images == 0 || tiles_x * tiles_y <= INT32_MAX / images),
                  "roi_pool: too many boxes or cells for CUDA, got ", rois, " boxes and ", images,
                  " x ", height, " x ", width, " cells");
  grad = channels_last(grad);
  argmax = channels_last(argmax);
  image_index = torch::stable::contiguous(image_index);
  const int32_t* argmax_data = argmax.const_data_ptr<int32_t>();

  Tensor out =
      new_tensor(grad, {images, channels, height, width}, dtype, MemoryFormat::ChannelsLast);
  if (out.numel() == 0) return out;
  constexpr int64_t kReachInts = sizeof(Reach) / sizeof(int);
  Tensor reaches = new_tensor(grad, {rois * (bins + 1), kReachInts}, ScalarType::Int);
  auto* roi_reach = reinterpret_cast<Reach*>(reaches.mutable_data_ptr<int32_t>());
  Reach* bin_reach = roi_reach + rois;
  launch(device, find_reaches, {unsigned(rois), 1, 1}, kThreads, 0, argmax_data, bins, channels,
         int(height * width), int(width), bin_reach, roi_reach);
  dispatch_floating(dtype, "roi_pool_backward", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const PoolGradient<T> gradient = {grad.const_data_ptr<T>(),
                                      argmax_data,
                                      image_index.const_data_ptr<int64_t>(),
                                      bin_reach,
                                      roi_reach,
                                      rois,
                                      bins,
                                      channels,
                                      int(height),
                                      int(width),
                                      int(tiles_x),
                                      int(tiles_y)};
    launch(device, roi_pool_backward_kernel<T, A>,
           {unsigned(images * tiles_x * tiles_y), unsigned(ceil_div(channels, kTileThreads)), 1},
           kTileThreads, kTileSums * sizeof(A), gradient, out.mutable_data_ptr<T>());
  });
  return out;
}

REGISTER_CUDA(m) {
  m.impl("roi_pool", BOX(roi_pool_cuda));
  m.impl("roi_pool_backward", BOX(roi_pool_backward_cuda));
}

}  // namespace mrcnn
