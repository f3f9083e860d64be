// Pastes masks on the GPU as pixels and as bits.
#include <algorithm>

#include "paste_masks/paste_masks.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kBlocks = 4;           // per multiprocessor, at least, without spilling registers
constexpr int kWordBytes = 16;       // bytes that a thread stores at once
constexpr int kTileBytes = 4 << 10;  // bytes of packed bits
constexpr int kMaxTileRows = 128;

// The division of an image into tiles, one per block. A tile is whole rows, or a part of one row,
// so its output is contiguous.
struct Tiling {
  int rows, columns;    // per tile
  int bands, parts;     // tiles from top to bottom, from left to right
  int64_t image_bytes;  // per image of the output
  int row_bytes;
};

struct TileRows {
  PasteTap tap[kMaxTileRows];  // knot -1 if the row does not read the mask
};

// Writes `bytes` bytes at `out`. word(i) returns bytes i to i + 16. At the ends, some of them are
// outside; i can be negative.
template <typename Word>
__device__ __forceinline__ void write_tile(uint8_t* out, int bytes, const Word& word) {
  const int past = int(uintptr_t(out) % kWordBytes);  // bytes past the last whole word
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

// Expands four bits to four bytes of 0 or 1.
__device__ __forceinline__ uint32_t bytes_of(uint32_t bits) {
  return (bits & 15) * 0x00204081u & 0x01010101u;
}

// Returns 16 pixels of a tile, starting at pixel `i`, from left to right, continuing in the next
// row. A row has `stride` words of 32 pixels.
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
  // A row has zeros beyond its last column.
  if (left < 16) bits |= words[(row + 1) * stride] << left;
  return bits;
}

// One block draws a tile as bits, each warp 32 columns at a time. It writes them as packed bits
// (the highest bit of a byte is its leftmost pixel), or as one byte per pixel.
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

  // Packed bits have the same alignment in shared memory as in the output.
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
  // Whole words are read, even if bits start or end inside a word.
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

REGISTER_CUDA(m) {
  m.impl("paste_masks", BOX(paste_masks_cuda));
  m.impl("paste_masks_packed", BOX(paste_masks_packed_cuda));
}

}  // namespace mrcnn
