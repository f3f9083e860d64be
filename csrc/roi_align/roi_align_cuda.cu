// RoIAlign on the GPU: all levels and images in one launch. Maps are channels_last, so a warp reads
// the channels of a cell as one row of 16-byte words.
#include <algorithm>
#include <vector>

#include "roi_align/roi_align.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
// Blocks per multiprocessor that have enough registers.
template <typename A>
constexpr int kBlocks = 16 / sizeof(A);
constexpr int kTapsAtOnce = 4;  // taps loaded together, to overlap their latency

template <typename A>
struct Tap {
  int cell;
  A weight;
};

// The largest number of taps of a bin. Boxes with adaptive sampling are not reversed, so their
// samples are in ascending order and each cell occurs once.
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
    // Samples of a bin are in ascending order, so a known cell is one of the last two.
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

// The room for taps in each bin, and the number of bins taken at a time.
struct TapParts {
  int row_most, column_most, rows, columns;
};

// Taps of the bin that each warp pools; each lane computes one.
template <typename A>
struct BinTaps {
  Tap<A> of_lane[kWarps][kWarpSize];
};
static_assert(kWarpSize % kTapsAtOnce == 0);

// One block pools some rows of bins of one RoI. Its threads merge the taps of the bins along each
// axis; then each warp takes a bin, and its lanes the channels. There is room for `budget` taps per
// axis; if bins have more, they are taken in several passes.
template <typename T, typename A, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocks<A>)
    roi_align_kernel(const __grid_constant__ Pyramid<const T, A> pyramid,
                     const __grid_constant__ Sampling<A> sampling, const A* boxes,
                     const int64_t* image_index, int rows_per_block, int budget, T* out) {
  // Shared, to save registers.
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
      __syncthreads();  // all threads have read the taps of the previous pass
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
        const int64_t position = (roi * sampling.bins_h + by0 + by) * bins_w + bx0 + bx;
        for (unsigned first = 0; first < channels; first += kWarpSize * kPack) {
          const unsigned c = first + lane * kPack;
          const T* cells = map + (c < channels ? c : 0);
          A sum[kPack] = {};
          for (int done = 0; done < taps; done += kWarpSize) {
            const int tap = done + lane < taps ? done + lane : 0;
            const Tap<A>& y = row[tap / taps_in_row];
            const Tap<A>& x = column[tap % taps_in_row];
            __syncwarp();  // all lanes have read the previous taps
            bin_taps.of_lane[warp][lane] = {y.cell * width + x.cell, y.weight * x.weight};
            __syncwarp();
            const int count = min(taps - done, kWarpSize);
#pragma unroll 1  // more loads would need too many registers
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
          if (c < channels) store_pack(out + position * channels + c, sum);
        }
      }
    }
}

template <typename T, typename A>
int64_t longest_side(const Pyramid<T, A>& pyramid) {
  return std::max(*std::max_element(pyramid.height, pyramid.height + kMaxLevels),
                  *std::max_element(pyramid.width, pyramid.width + kMaxLevels));
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

    // Enough blocks to fill the device, even for few RoIs.
    const int64_t blocks_per_roi =
        4 * device_attribute(device, cudaDevAttrMultiProcessorCount) / rois + 1;
    const int64_t rows_per_block = ceil_div(bins_h, std::min(blocks_per_roi, bins_h));
    // The number of taps of a bin with the most samples; most RoIs need a fraction.
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

REGISTER_CUDA(m) { m.impl("roi_align", BOX(roi_align_cuda)); }

}  // namespace mrcnn
