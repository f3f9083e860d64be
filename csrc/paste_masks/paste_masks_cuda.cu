// Masks of boxes pasted on the GPU: as pixels, as bits, and as run lengths.
#include <algorithm>
#include <tuple>

#include "common/cuda.cuh"
#include "common/scan.cuh"
#include "paste_masks/paste_arguments.h"
#include "paste_masks/paste_masks.h"

namespace mrcnn {
namespace {

// The masks, their boxes and the image, passed to kernels by value.
struct Pasted {
  const float* masks;  // (D, M, M)
  const float* boxes;  // (D, 4)
  int cells, height, width;
  float threshold;

  __device__ const float* mask(int64_t d) const { return masks + d * cells * cells; }
  // Whether a pixel at this coordinate reads the mask.
  __device__ bool reads(float coordinate) const {
    return coordinate >= -1 && coordinate < float(cells);
  }
};

// The mask at a knot of the y axis, interpolated along x.
__device__ __forceinline__ float at_knot(const float* mask, int cells, const PasteTap& column,
                                         int knot) {
  if (knot == 0 || knot > cells) return 0;
  const float* row = mask + int64_t(knot - 1) * cells;  // knot k is cell k - 1
  const float left = column.knot > 0 ? row[column.knot - 1] : 0.0f;
  const float right = column.knot < cells ? row[column.knot] : 0.0f;
  return lerp(left, right, column.fraction);
}

// The knots around one row of a column. Rows are asked for downwards, so that most knots are known.
struct KnotsAround {
  int known = -1;  // the upper one; knot 0 is of zeros
  float above = 0, below = 0;

  __device__ __forceinline__ void move(const float* mask, int cells, const PasteTap& column,
                                       int knot) {
    if (knot == known) return;
    above = knot == known + 1 ? below : at_knot(mask, cells, column, knot);
    below = at_knot(mask, cells, column, knot + 1);
    known = knot;
  }
};

// ---- Pixels and bits ----

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kBlocks = 4;      // a multiprocessor, at least: registers for each without a spill
constexpr int kWordBytes = 16;  // what a thread stores at once
constexpr int kTileBytes = 4 << 10;  // of bits
constexpr int kMaxTileRows = 128;

// How an image is cut into tiles, one a block. A tile is whole rows, or a part of one row, so that
// its output lies in one piece.
struct Tiling {
  int rows, columns;    // of a tile
  int bands, parts;     // tiles from top to bottom, from left to right
  int64_t image_bytes;  // of the output
  int row_bytes;
};

struct TileRows {
  PasteTap tap[kMaxTileRows];  // of knot -1 where the row does not read the mask
};

// Writes `bytes` bytes from `out` on. word(i) is those from byte i up to i + 16; at the ends some
// of them lie outside, i may be below 0.
template <typename Word>
__device__ __forceinline__ void write_tile(uint8_t* out, int bytes, const Word& word) {
  const int past = int(uintptr_t(out) % kWordBytes);  // a whole word
  for (int i = int(threadIdx.x) * kWordBytes - past; i < bytes; i += kThreads * kWordBytes) {
    const uint4 w = word(i);
    if (i >= 0 && i + kWordBytes <= bytes) {
      *reinterpret_cast<uint4*>(out + i) = w;
    } else {
      const uint32_t part[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int b = 0; b < kWordBytes; ++b)
        if (i + b >= 0 && i + b < bytes) out[i + b] = uint8_t(part[b / 4] >> b % 4 * 8);
    }
  }
}

// A byte of 0 or 1 for each of four bits.
__device__ __forceinline__ uint32_t bytes_of(uint32_t bits) {
  return (bits & 15) * 0x00204081u & 0x01010101u;
}

// 16 pixels of a tile from pixel `i` on, from left to right and then on in the next row. A row has
// `stride` words of 32 pixels.
__device__ __forceinline__ uint32_t sixteen_pixels(const uint32_t* words, int stride, int rows,
                                                   int columns, int i) {
  const auto pixel = [&](int at) {
    const int row = at / columns, column = at % columns;
    return words[row * stride + column / 32] >> column % 32 & 1;
  };
  uint32_t bits = 0;
  if (i < 0 || columns < 16 || i + 16 > rows * columns) {
    for (int b = 0; b < 16; ++b)
      if (i + b >= 0 && i + b < rows * columns) bits |= pixel(i + b) << b;
    return bits;
  }
  const int row = i / columns, column = i % columns, left = columns - column;
  const uint32_t* word = words + row * stride + column / 32;
  bits = word[0] >> column % 32;
  if (column % 32 > 16 && column / 32 + 1 < stride) bits |= word[1] << (32 - column % 32);
  // Beyond the last column a row has zeros.
  if (left < 16) bits |= words[(row + 1) * stride] << left;
  return bits;
}

// One block draws a tile as bits, a warp 32 columns at a time, and writes them out as they are
// (the highest bit of a byte is its leftmost pixel), or a byte for each.
template <bool kPacked>
__global__ void __launch_bounds__(kThreads, kBlocks)
    paste_kernel(const __grid_constant__ Pasted pasted, const __grid_constant__ Tiling tiling,
                 uint8_t* out) {
  DYNAMIC_SHARED(uint8_t, memory);
  SHARED(TileRows, tile_rows);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t band = blockIdx.x / tiling.parts, d = band / tiling.bands;
  const int first_row = int(band % tiling.bands) * tiling.rows;
  const int first_column = int(blockIdx.x % tiling.parts) * tiling.columns;
  const int rows = min(tiling.rows, pasted.height - first_row);
  const int columns = min(tiling.columns, pasted.width - first_column);
  const int stride = kPacked ? (columns + 7) / 8 : (columns + 31) / 32 * 4;  // bytes
  const int bytes = rows * (kPacked ? stride : columns);
  out += d * tiling.image_bytes + int64_t(first_row) * tiling.row_bytes +
         (kPacked ? first_column / 8 : first_column);

  const Box<float> box = load_box(pasted.boxes + d * 4);
  const PasteAxis y_axis = {box.y1, box.y2 - box.y1, pasted.cells};
  const PasteAxis x_axis = {box.x1, box.x2 - box.x1, pasted.cells};
  const float end = float(pasted.cells);
  if (!can_paste(box) || !(y_axis.coordinate(first_row) < end) ||
      !(y_axis.coordinate(first_row + rows - 1) >= -1) ||
      !(x_axis.coordinate(first_column) < end) ||
      !(x_axis.coordinate(first_column + columns - 1) >= -1)) {
    write_tile(out, bytes, [](int) { return uint4{0, 0, 0, 0}; });
    return;
  }

  // Bits that are written as they are lie in memory as their words in the output do.
  uint8_t* bits = memory + (kPacked ? uintptr_t(out) % kWordBytes : 0);
  for (int i = threadIdx.x; i < rows * stride; i += kThreads) bits[i] = 0;
  for (int r = threadIdx.x; r < rows; r += kThreads) {
    const float coordinate = y_axis.coordinate(first_row + r);
    tile_rows.tap[r] = pasted.reads(coordinate) ? paste_tap(coordinate) : PasteTap{-1, 0};
  }
  __syncthreads();

  const float* mask = pasted.mask(d);
  for (int group = warp; group * kWarpSize < columns; group += kWarps) {
    const int column = group * kWarpSize + (kPacked ? lane ^ 7 : lane);
    const float coordinate = x_axis.coordinate(first_column + column);
    const bool reads = column < columns && pasted.reads(coordinate);
    if (!__any_sync(kAllLanes, reads)) continue;
    const PasteTap tap = reads ? paste_tap(coordinate) : PasteTap{0, 0};
    KnotsAround knots;
    for (int r = 0; r < rows; ++r) {
      const PasteTap row = tile_rows.tap[r];
      if (row.knot < 0) continue;
      knots.move(mask, pasted.cells, tap, row.knot);
      const bool inside = reads && lerp(knots.above, knots.below, row.fraction) >= pasted.threshold;
      const unsigned word = __ballot_sync(kAllLanes, inside);
      if (lane < 4 && group * 4 + lane < stride)
        bits[r * stride + group * 4 + lane] = uint8_t(word >> lane * 8);
    }
  }
  __syncthreads();

  if constexpr (kPacked) {
    write_tile(out, bytes, [&](int i) { return *reinterpret_cast<const uint4*>(bits + i); });
  } else {
    const auto* words = reinterpret_cast<const uint32_t*>(memory);
    write_tile(out, bytes, [&](int i) {
      const uint32_t pixels = sixteen_pixels(words, stride / 4, rows, columns, i);
      return uint4{bytes_of(pixels), bytes_of(pixels >> 4), bytes_of(pixels >> 8),
                   bytes_of(pixels >> 12)};
    });
  }
}

// ---- Run lengths ----

constexpr int kRunThreads = 128;  // columns a block
// Whose knots fit the shared memory of all devices.
constexpr int64_t kMaxCells = 4096;

// The offsets in an image, column by column, where inside and outside swap: of some columns.
struct Swaps {
  int64_t before;  // how many runs end before these
  int last;        // offset: the last of these, later the last before these; 0 if none
  int count;
};

// The same for one column inside its block.
struct ColumnSwaps {
  int before, last;
};

// The rows of the image between two knots, in the memory that a block shares.
struct Segments {
  int* begin;  // (M + 2): the first row of each, and the end of the last
  float *first_fraction, *last_fraction;
  int first_column, end_column;  // of the image that read the mask

  // Every thread of the block takes part.
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

// Calls swap(offset) where inside and outside swap in one column, downwards. The first pixel is
// compared with the last of the column before where the offsets of both meet, so that swaps at one
// offset undo each other.
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
  const float rows_a_knot = y_axis.extent / float(cells);
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
           int(crossing(first, last, starts, knots.above, knots.below, rows_a_knot, threshold,
                        [&](int64_t row) { return paste_tap(y_axis.coordinate(row)).fraction; })));
    inside = ends;
  }
  if (inside && !(columns_meet && column + 1 < segments.end_column)) swap(top + end);
}

// The grid of the two kernels over columns: `parts` blocks a mask.
struct MaskPart {
  int64_t mask;
  int part;

  __device__ explicit MaskPart(int parts)
      : mask(blockIdx.x / parts), part(int(blockIdx.x % parts)) {}
};

__global__ void __launch_bounds__(kRunThreads)
    count_swaps(const __grid_constant__ Pasted pasted, int parts, ColumnSwaps* of_columns,
                Swaps* of_parts) {
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
  of_columns[int64_t(blockIdx.x) * kRunThreads + threadIdx.x] = {counts.before, lasts.before};
  if (threadIdx.x == 0) of_parts[blockIdx.x] = {0, lasts.total, counts.total};
}

// One block finds where the runs of each mask and part start, and writes the last run of masks
// whose last swap is not at the end of the image.
__global__ void __launch_bounds__(kThreads)
    place_runs(Swaps* of_parts, int64_t masks, int parts, int pixels, int32_t* counts,
               int64_t* starts) {
  int64_t done = 0;  // runs of the masks before
  for (int64_t first = 0; first < masks; first += kThreads) {
    const int64_t d = first + threadIdx.x;
    Swaps* of_mask = of_parts + d * parts;
    int64_t swaps = 0;
    int last = 0;
    if (d < masks)
      for (int p = 0; p < parts; ++p) {
        swaps += of_mask[p].count;
        last = max(last, of_mask[p].last);
      }
    const bool ends_open = swaps == 0 || last < pixels;
    const auto runs = sum_block<kThreads, int64_t>(d < masks ? swaps + ends_open : 0);
    if (d < masks) {
      int64_t before = done + runs.before;
      starts[d] = before;
      if (ends_open) counts[before + swaps] = pixels - last;
      last = 0;
      for (int p = 0; p < parts; ++p) {
        const Swaps part = of_mask[p];
        of_mask[p] = {before, last, part.count};
        before += part.count;
        last = max(last, part.last);
      }
    }
    done += runs.total;
  }
  if (threadIdx.x == 0) starts[masks] = done;
}

__global__ void __launch_bounds__(kRunThreads)
    write_runs(const __grid_constant__ Pasted pasted, int parts, const ColumnSwaps* of_columns,
               const Swaps* of_parts, int32_t* counts) {
  DYNAMIC_SHARED(int, memory);
  const MaskPart at(parts);
  const Swaps part = of_parts[blockIdx.x];
  if (part.count == 0) return;
  const Box<float> box = load_box(pasted.boxes + at.mask * 4);
  const PasteAxis y_axis = {box.y1, box.y2 - box.y1, pasted.cells};
  const PasteAxis x_axis = {box.x1, box.x2 - box.x1, pasted.cells};
  Segments segments;
  segments.build(y_axis, x_axis, pasted, memory);
  const int column = segments.first_column + at.part * kRunThreads + int(threadIdx.x);
  if (column >= segments.end_column) return;
  const ColumnSwaps mine = of_columns[int64_t(blockIdx.x) * kRunThreads + threadIdx.x];
  int64_t run = part.before + mine.before;
  int last = max(part.last, mine.last);
  find_swaps(segments, y_axis, x_axis, pasted, pasted.mask(at.mask), column, [&](int offset) {
    counts[run++] = offset - last;
    last = offset;
  });
}

// The most runs that one mask can have. A column swaps at most once inside of each of the M + 1
// segments between knots, once between two of them (their values meet, but for masks that are not
// finite) and at both ends. It swaps an even number of times, so 2 (M + 1) times; and no more often
// than its pixels allow.
int64_t most_runs(int64_t cells, int64_t height, int64_t width) {
  return width * 2 * std::min(cells + 1, (height + 1) / 2) + 1;
}

Pasted pasted_of(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                 double threshold) {
  STD_TORCH_CHECK(masks.size(1) <= INT32_MAX - 2, "paste_masks: M must be less than 2^31 - 2");
  return {masks.const_data_ptr<float>(),
          boxes.const_data_ptr<float>(),
          int(masks.size(1)),
          int(height),
          int(width),
          float(threshold)};
}

template <bool kPacked>
Tensor paste_pixels(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  prepare_paste(masks, boxes, height, width);
  const OnDevice device(masks);
  const int64_t count = masks.size(0), row_bytes = kPacked ? (width + 7) / 8 : width;
  Tensor out =
      new_tensor(masks, {count, height, row_bytes}, kPacked ? ScalarType::Byte : ScalarType::Bool);
  if (out.numel() == 0) return out;
  Tiling tiling = {};
  tiling.columns = int(std::min<int64_t>(width, 8 * kTileBytes));
  tiling.parts = int(ceil_div(width, tiling.columns));
  const int64_t stride = kPacked ? (tiling.columns + 7) / 8 : (tiling.columns + 31) / 32 * 4;
  tiling.rows = tiling.parts > 1
                    ? 1
                    : int(std::clamp<int64_t>(kTileBytes / stride, 1,
                                              std::min<int64_t>(height, kMaxTileRows)));
  tiling.bands = int(ceil_div(height, tiling.rows));
  tiling.image_bytes = height * row_bytes, tiling.row_bytes = int(row_bytes);
  const int64_t blocks = count * tiling.bands * tiling.parts;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "paste_masks: too many pixels for CUDA");
  // Whole words are read, also where bits start and end inside of one.
  const size_t shared_bytes = size_t(tiling.rows * stride + 2 * kWordBytes);
  launch(device, paste_kernel<kPacked>, {unsigned(blocks), 1, 1}, kThreads, shared_bytes,
         pasted_of(masks, boxes, height, width, threshold), tiling,
         static_cast<uint8_t*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace

Tensor paste_masks_cuda(Tensor masks, Tensor boxes, int64_t height, int64_t width,
                        double threshold) {
  return paste_pixels<false>(masks, boxes, height, width, threshold);
}

Tensor paste_masks_packed_cuda(Tensor masks, Tensor boxes, int64_t height, int64_t width,
                               double threshold) {
  return paste_pixels<true>(masks, boxes, height, width, threshold);
}

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
  Tensor of_columns = new_tensor(
      masks, {blocks * kRunThreads, int64_t(sizeof(ColumnSwaps) / sizeof(int))}, ScalarType::Int);
  Tensor of_parts =
      new_tensor(masks, {blocks, int64_t(sizeof(Swaps) / sizeof(int64_t))}, ScalarType::Long);
  auto* column_data = reinterpret_cast<ColumnSwaps*>(of_columns.mutable_data_ptr<int32_t>());
  auto* part_data = reinterpret_cast<Swaps*>(of_parts.mutable_data_ptr<int64_t>());
  int32_t* count_data = counts.mutable_data_ptr<int32_t>();
  const Pasted pasted = pasted_of(masks, boxes, height, width, threshold);
  const dim3 grid = {unsigned(blocks), 1, 1};
  const size_t shared_bytes = Segments::bytes(cells);
  launch(device, count_swaps, grid, kRunThreads, shared_bytes, pasted, int(parts), column_data,
         part_data);
  launch(device, place_runs, {1, 1, 1}, kThreads, 0, part_data, count, int(parts),
         int(height * width), count_data, starts.mutable_data_ptr<int64_t>());
  launch(device, write_runs, grid, kRunThreads, shared_bytes, pasted, int(parts), column_data,
         part_data, count_data);
  return {counts, starts};
}

REGISTER_CUDA(m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks_cuda));
  m.impl("paste_masks_packed", TORCH_BOX(&paste_masks_packed_cuda));
  m.impl("paste_masks_rle", TORCH_BOX(&paste_masks_rle_cuda));
}

}  // namespace mrcnn
