// Pastes masks on the GPU as RLE, without visiting the pixels: count the swaps of inside and
// outside per column, find the position of each mask's runs, write the runs.
#include <algorithm>
#include <tuple>

#include "common/scan.cuh"
#include "paste_masks/paste_masks.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;     // of the block that positions the runs
constexpr int kRunThreads = 128;  // columns per block
// The knots of so many cells fit the shared memory of all devices.
constexpr int64_t kMaxCells = 4096;

// The swaps of inside and outside in some columns. An offset counts pixels down the columns.
struct Swaps {
  int64_t before;  // number of runs that end before these columns
  int last;        // offset of the last swap here, later of the last swap before; 0 if none
  int count;
};

// The same for one column in its block.
struct ColumnSwaps {
  int before, last;
};

// The rows of the image between two knots, in shared memory.
struct Segments {
  int* begin;  // (M + 2): the first row of each segment, and the end of the last
  float *first_fraction, *last_fraction;
  int first_column, end_column;  // columns of the image that read the mask

  // All threads of the block must call it.
  __device__ void build(const PasteAxis& y_axis, const PasteAxis& x_axis, const Pasted& pasted,
                        int* memory) {
    const int cells = pasted.cells;
    begin = memory;
    int* ends = memory + cells + 2;
    first_fraction = reinterpret_cast<float*>(ends + 2);
    last_fraction = first_fraction + cells + 1;
    for (int k = threadIdx.x; k < cells + 4; k += kRunThreads) {
      if (k < cells + 2)
        begin[k] = int(first_pixel(y_axis, float(k - 1), pasted.height));
      else
        ends[k - cells - 2] =
            int(first_pixel(x_axis, k == cells + 2 ? -1.0f : float(cells), pasted.width));
    }
    __syncthreads();
    first_column = ends[0], end_column = ends[1];
    for (int k = threadIdx.x; k <= cells; k += kRunThreads)
      if (begin[k] < begin[k + 1]) {
        first_fraction[k] = paste_tap(y_axis.coordinate(begin[k])).fraction;
        last_fraction[k] = paste_tap(y_axis.coordinate(begin[k + 1] - 1)).fraction;
      }
    __syncthreads();
  }
  static size_t bytes(int64_t cells) { return sizeof(int) * size_t(4 * cells + 6); }
};

// Calls swap(offset) where inside and outside swap in one column, from top to bottom. If columns
// are adjacent in the order of pixels, the first pixel is compared with the last one of the
// previous column, so that swaps at one offset cancel each other.
template <typename Swap>
__device__ __forceinline__ void find_swaps(const Segments& segments, const PasteAxis& y_axis,
                                           const PasteAxis& x_axis, const Pasted& pasted,
                                           const float* mask, int column, const Swap& swap) {
  const int cells = pasted.cells, height = pasted.height, top = column * height;
  const float threshold = pasted.threshold;
  const int begin = segments.begin[0], end = segments.begin[cells + 1];
  const bool columns_meet = begin == 0 && end == height;
  bool inside = false;
  if (columns_meet && column > segments.first_column) {
    const PasteTap before = paste_tap(x_axis.coordinate(column - 1));
    const PasteTap last = paste_tap(y_axis.coordinate(height - 1));
    inside = lerp(at_knot(mask, cells, before, last.knot),
                  at_knot(mask, cells, before, last.knot + 1), last.fraction) >= threshold;
  }
  const PasteTap tap = paste_tap(x_axis.coordinate(column));
  const float rows_per_knot = y_axis.extent / float(cells);
  KnotsAround knots;
  for (int k = 0; k <= cells; ++k) {
    const int first = segments.begin[k], last = segments.begin[k + 1] - 1;
    if (first > last) continue;
    knots.move(mask, cells, tap, k);
    const bool starts = lerp(knots.above, knots.below, segments.first_fraction[k]) >= threshold;
    const bool ends = lerp(knots.above, knots.below, segments.last_fraction[k]) >= threshold;
    if (starts != inside) swap(top + first);
    if (ends != starts)
      swap(top +
           int(crossing(first, last, starts, knots.above, knots.below, rows_per_knot, threshold,
                        [&](int64_t row) { return paste_tap(y_axis.coordinate(row)).fraction; })));
    inside = ends;
  }
  if (inside && !(columns_meet && column + 1 < segments.end_column)) swap(top + end);
}

// The grid of the two kernels over columns: `parts` blocks per mask.
struct MaskPart {
  int64_t mask;
  int part;

  __device__ explicit MaskPart(int parts)
      : mask(blockIdx.x / parts), part(int(blockIdx.x % parts)) {}
};

__global__ void __launch_bounds__(kRunThreads)
    count_swaps(const __grid_constant__ Pasted pasted, int parts, ColumnSwaps* column_swaps,
                Swaps* part_swaps) {
  DYNAMIC_SHARED(int, memory);
  const MaskPart at(parts);
  const Box<float> box = load_box(pasted.boxes + at.mask * 4);
  int count = 0, last = 0;
  if (can_paste(box)) {
    const PasteAxis y_axis = {box.y1, box.y2 - box.y1, pasted.cells};
    const PasteAxis x_axis = {box.x1, box.x2 - box.x1, pasted.cells};
    Segments segments;
    segments.build(y_axis, x_axis, pasted, memory);
    const int column = segments.first_column + at.part * kRunThreads + int(threadIdx.x);
    if (column < segments.end_column)
      find_swaps(segments, y_axis, x_axis, pasted, pasted.mask(at.mask), column, [&](int offset) {
        ++count;
        last = offset;
      });
  }
  const auto counts = sum_block<kRunThreads>(count);
  const auto lasts = scan_block<kRunThreads>(last, 0, [](int a, int b) { return max(a, b); });
  column_swaps[int64_t(blockIdx.x) * kRunThreads + threadIdx.x] = {counts.before, lasts.before};
  if (threadIdx.x == 0) part_swaps[blockIdx.x] = {0, lasts.total, counts.total};
}

// One block finds the position of the runs of each mask and part. It writes the last run of masks
// whose last swap is not at the end of the image.
__global__ void __launch_bounds__(kThreads)
    position_runs(Swaps* part_swaps, int64_t masks, int parts, int pixels, int32_t* counts,
                  int64_t* starts) {
  int64_t done = 0;  // runs of earlier masks
  for (int64_t first = 0; first < masks; first += kThreads) {
    const int64_t d = first + threadIdx.x;
    Swaps* mask_swaps = part_swaps + d * parts;
    int64_t swaps = 0;
    int last = 0;
    if (d < masks)
      for (int p = 0; p < parts; ++p) {
        swaps += mask_swaps[p].count;
        last = max(last, mask_swaps[p].last);
      }
    const bool ends_open = swaps == 0 || last < pixels;
    const auto runs = sum_block<kThreads, int64_t>(d < masks ? swaps + ends_open : 0);
    if (d < masks) {
      int64_t before = done + runs.before;
      starts[d] = before;
      if (ends_open) counts[before + swaps] = pixels - last;
      last = 0;
      for (int p = 0; p < parts; ++p) {
        const Swaps part = mask_swaps[p];
        mask_swaps[p] = {before, last, part.count};
        before += part.count;
        last = max(last, part.last);
      }
    }
    done += runs.total;
  }
  if (threadIdx.x == 0) starts[masks] = done;
}

__global__ void __launch_bounds__(kRunThreads)
    write_runs(const __grid_constant__ Pasted pasted, int parts, const ColumnSwaps* column_swaps,
               const Swaps* part_swaps, int32_t* counts) {
  DYNAMIC_SHARED(int, memory);
  const MaskPart at(parts);
  const Swaps part = part_swaps[blockIdx.x];
  if (part.count == 0) return;
  const Box<float> box = load_box(pasted.boxes + at.mask * 4);
  const PasteAxis y_axis = {box.y1, box.y2 - box.y1, pasted.cells};
  const PasteAxis x_axis = {box.x1, box.x2 - box.x1, pasted.cells};
  Segments segments;
  segments.build(y_axis, x_axis, pasted, memory);
  const int column = segments.first_column + at.part * kRunThreads + int(threadIdx.x);
  if (column >= segments.end_column) return;
  const ColumnSwaps mine = column_swaps[int64_t(blockIdx.x) * kRunThreads + threadIdx.x];
  int64_t run = part.before + mine.before;
  int last = max(part.last, mine.last);
  find_swaps(segments, y_axis, x_axis, pasted, pasted.mask(at.mask), column, [&](int offset) {
    counts[run++] = offset - last;
    last = offset;
  });
}

// The largest number of runs of one mask. A column swaps at most once in each of the M + 1 segments
// between knots, once between two segments (only for masks that are not finite; otherwise their
// values agree), and at both ends. The number of swaps is even, so it is at most 2 (M + 1), and it
// is also limited by the number of pixels.
int64_t most_runs(int64_t cells, int64_t height, int64_t width) {
  return width * 2 * std::min(cells + 1, (height + 1) / 2) + 1;
}

}  // namespace

std::tuple<Tensor, Tensor> paste_masks_rle_cuda(Tensor masks, Tensor boxes, int64_t height,
                                                int64_t width, double threshold) {
  prepare_paste(masks, boxes, height, width);
  const OnDevice device(masks);
  const int64_t count = masks.size(0), cells = masks.size(1);
  STD_TORCH_CHECK(cells <= kMaxCells, "paste_masks: M must be at most ", kMaxCells,
                  " on CUDA, got ", cells);
  const int64_t parts = height > 0 ? ceil_div(width, kRunThreads) : 0, blocks = count * parts;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "paste_masks: too many columns for CUDA");
  Tensor counts = new_tensor(masks, {count * most_runs(cells, height, width)}, ScalarType::Int);
  Tensor starts = new_tensor(masks, {count + 1}, ScalarType::Long);
  Tensor column_swaps = new_tensor(
      masks, {blocks * kRunThreads, int64_t(sizeof(ColumnSwaps) / sizeof(int))}, ScalarType::Int);
  Tensor part_swaps =
      new_tensor(masks, {blocks, int64_t(sizeof(Swaps) / sizeof(int64_t))}, ScalarType::Long);
  auto* column_data = reinterpret_cast<ColumnSwaps*>(column_swaps.mutable_data_ptr<int32_t>());
  auto* part_data = reinterpret_cast<Swaps*>(part_swaps.mutable_data_ptr<int64_t>());
  int32_t* count_data = counts.mutable_data_ptr<int32_t>();
  const Pasted pasted = pasted_of(masks, boxes, height, width, threshold);
  const dim3 grid = {unsigned(blocks), 1, 1};
  const size_t shared_bytes = Segments::bytes(cells);
  launch(device, count_swaps, grid, kRunThreads, shared_bytes, pasted, int(parts), column_data,
         part_data);
  launch(device, position_runs, {1, 1, 1}, kThreads, 0, part_data, count, int(parts),
         int(height * width), count_data, starts.mutable_data_ptr<int64_t>());
  launch(device, write_runs, grid, kRunThreads, shared_bytes, pasted, int(parts), column_data,
         part_data, count_data);
  return {counts, starts};
}

REGISTER_CUDA(m) { m.impl("paste_masks_rle", BOX(paste_masks_rle_cuda)); }

}  // namespace mrcnn
