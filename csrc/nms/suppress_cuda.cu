// Suppression of boxes that stand best first. Few: one block suppresses a segment on its own. More:
// the overlaps of all pairs in a tile of boxes are tested by the whole device and resolved by one
// block a segment, after the tile was tested against what earlier tiles kept; so memory is of
// O(boxes), and the number of launches depends on the shapes only.
#include <algorithm>

#include "nms/nms.cuh"
#include "nms/rivals.cuh"

namespace mrcnn {
namespace {

constexpr int kWord = 64;  // boxes whose overlaps with another are bits of one word
constexpr int kTileBoxes = 4096, kFewestTileBoxes = 1024;  // whose pairs are tested at once
constexpr int64_t kMaskBytes = 32 << 20;  // of the masks of all segments, to stay in a large L2
constexpr int kRowsPerWarp = 8;           // that a warp of the resolving block collects
constexpr int kWarpsPerChunk = kWord / kRowsPerWarp;
constexpr int kMaxBlocks = kTileBoxes / kWord;

template <typename T>
__global__ void __launch_bounds__(kSmall)
    suppress_small_kernel(const T* boxes, const int64_t* groups, const uint8_t* competes, int count,
                          const __grid_constant__ Threshold<T> threshold, int64_t max_keep,
                          int32_t* positions, int32_t* counts) {
  SHARED(SmallSegment<T>, segment);
  const int t = threadIdx.x;
  const int64_t i = int64_t(blockIdx.x) * count + t;
  bool alive = false;
  if (t < count) {
    alive = competes == nullptr || competes[i] != 0;
    segment.rival[t] = load_rival(boxes, i);
    segment.group[t] = group_of(groups, i);
  }
  __syncthreads();
  suppress_small(segment, alive, count, threshold, max_keep, nullptr,
                 positions + blockIdx.x * max_keep, counts + blockIdx.x);
}

// `rows` boxes of each segment, from `begin` on. Which overlap is told by a mask (segments,
// stride * 64, stride) of words of 64 bits: those of box i with the boxes of a later block of 64
// than the next, with those of its own block before it, and with those of the block before.
struct Tile {
  int64_t count, begin;
  int rows, stride;
  int most;                 // boxes to keep
  const uint8_t* competes;  // may be nullptr
  // (segments, 2 * stride), bit i % 32 of word i / 32: an earlier tile suppresses box i of this
  // one. nullptr for the first tile.
  const uint32_t* removed;

  __device__ __forceinline__ int blocks() const { return (rows + kWord - 1) / kWord; }
  __device__ __forceinline__ int64_t box(int64_t segment, int i) const {
    return segment * count + begin + i;
  }
  __device__ __forceinline__ uint64_t* mask_row(uint64_t* mask, int64_t segment, int i) const {
    return mask + (segment * stride * kWord + i) * stride;
  }
  __device__ __forceinline__ bool alive(int64_t segment, int i) const {
    if (i >= rows || (competes != nullptr && competes[box(segment, i)] == 0)) return false;
    return removed == nullptr ||
           !(removed[segment * stride * 2 + i / kWarpSize] >> (i % kWarpSize) & 1);
  }
  // How many boxes earlier tiles kept.
  __device__ __forceinline__ int known(int64_t segment, const int32_t* counts) const {
    return begin == 0 ? 0 : counts[segment];
  }
};

constexpr int kKeptAtOnce = 512;  // threads, too

template <typename T>
struct KeptChunk {
  Rival<T> rival[kKeptAtOnce];
  int64_t group[kKeptAtOnce];
  unsigned dead;
};

// One block tests 32 boxes of a tile, one a lane, against all boxes that earlier tiles kept.
template <typename T>
__global__ void __launch_bounds__(kKeptAtOnce)
    test_against_kept(const T* boxes, const int64_t* groups, const __grid_constant__ Tile tile,
                      const __grid_constant__ Threshold<T> threshold, int64_t max_keep,
                      const int32_t* positions, const int32_t* counts, uint32_t* removed) {
  SHARED(KeptChunk<T>, chunk);
  const int t = threadIdx.x, warp = t / kWarpSize, lane = t % kWarpSize;
  const int parts = (tile.rows + kWarpSize - 1) / kWarpSize;
  const int64_t segment = blockIdx.x / parts;
  const int part = blockIdx.x % parts, i = part * kWarpSize + lane;
  const int known = tile.known(segment, counts);
  if (known >= tile.most) return;
  positions += segment * max_keep;

  bool alive = tile.alive(segment, i);
  Rival<T> mine = {};
  int64_t group = 0;
  if (alive) {
    mine = load_rival(boxes, tile.box(segment, i));
    group = group_of(groups, tile.box(segment, i));
  }
  unsigned dead = __ballot_sync(kAllLanes, !alive);
  if (t == 0) chunk.dead = dead;
  for (int start = 0; start < known && dead != kAllLanes; start += kKeptAtOnce) {
    if (start + t < known) {
      const int64_t kept = segment * tile.count + positions[start + t];
      chunk.rival[t] = load_rival(boxes, kept);
      chunk.group[t] = group_of(groups, kept);
    }
    __syncthreads();
    const int first = warp * kWarpSize, last = min(first + kWarpSize, known - start);
    if (alive)
      for (int j = first; j < last; ++j)
        if (threshold.exceeded(chunk.rival[j], mine) && chunk.group[j] == group) alive = false;
    dead = __ballot_sync(kAllLanes, !alive);
    if (lane == 0) atomicOr(&chunk.dead, dead);
    __syncthreads();
    dead = chunk.dead;
    alive = !(dead >> lane & 1);
  }
  if (t == 0) removed[segment * tile.stride * 2 + part] = dead;
}

template <typename T>
struct Columns {
  Rival<T> rival[kWord];
  int64_t group[kWord];
};

// One block tests the pairs of two blocks of 64 boxes; a thread has a row of the mask.
template <typename T>
__global__ void __launch_bounds__(kWord)
    test_pairs(const T* boxes, const int64_t* groups, const __grid_constant__ Tile tile,
               const __grid_constant__ Threshold<T> threshold, const int32_t* counts,
               uint64_t* mask) {
  SHARED(Columns<T>, columns);
  const int t = threadIdx.x, blocks = tile.blocks();
  const int64_t segment = blockIdx.x / (blocks + 1);
  // The triangle row <= column, folded to a rectangle half as high.
  const int x = blockIdx.x % (blocks + 1), y = blockIdx.y;
  int row = x > y ? y : blocks - 1 - y, column = x > y ? x - 1 : blocks - 1 - x;
  if (x <= y && 2 * y == blocks - 1) return;  // the middle row is whole
  if (tile.known(segment, counts) >= tile.most) return;
  if (column == row + 1) column = row++;  // the next block asks which boxes before suppress its own
  const int i = row * kWord + t, j = column * kWord + t;

  const bool alive = tile.alive(segment, i);
  if (j < tile.rows) {
    columns.rival[t] = load_rival(boxes, tile.box(segment, j));
    columns.group[t] = group_of(groups, tile.box(segment, j));
  }
  __syncthreads();
  if (i >= tile.rows) return;
  uint64_t word = 0;
  if (alive) {
    const Rival<T> mine = load_rival(boxes, tile.box(segment, i));
    const int64_t group = group_of(groups, tile.box(segment, i));
    const int last = row == column ? t : min(kWord, tile.rows - column * kWord);
    for (int c = 0; c < last; ++c)
      if (threshold.exceeded(columns.rival[c], mine) && columns.group[c] == group)
        word |= uint64_t(1) << c;
  }
  tile.mask_row(mask, segment, i)[column] = word;
}

struct Resolved {
  unsigned removed[2 * kMaxBlocks];
  uint64_t kept[kMaxBlocks];
  int total[kMaxBlocks];  // kept up to and with each block
};

// One block decides which boxes of a segment's tile are kept. In step b its first warp decides
// block b of 64 boxes, two a lane; the other warps collect what the boxes kept in block b - 1
// suppress beyond block b. One barrier a step.
__global__ void __launch_bounds__(kWarpSize * (1 + kWarpsPerChunk * kMaxBlocks / kWarpSize))
    resolve_rows(const __grid_constant__ Tile tile, uint64_t* mask, int64_t max_keep,
                 int32_t* positions, int32_t* counts) {
  SHARED(Resolved, shared);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t segment = blockIdx.x;
  const int blocks = tile.blocks();
  positions += segment * max_keep;
  int total = tile.known(segment, counts);

  for (int half = warp; half < 2 * blocks; half += blockDim.x / kWarpSize) {
    const unsigned dead = __ballot_sync(kAllLanes, !tile.alive(segment, half * kWarpSize + lane));
    if (lane == 0) shared.removed[half] = dead;
  }
  __syncthreads();

  // Of a lane's two boxes: which of the block before, and which before it in its own, overlap it.
  uint64_t last[2] = {}, own[2] = {}, next_last[2] = {}, next_own[2] = {};
  const auto load = [&](int b) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = b * kWord + h * kWarpSize + lane;
      if (i >= tile.rows) continue;
      const uint64_t* row = tile.mask_row(mask, segment, i);
      next_last[h] = b == 0 ? 0 : row[b - 1];
      next_own[h] = row[b];
    }
  };
  if (warp == 0) load(0);
  for (int b = 0; b < blocks && total < tile.most; ++b) {
    const uint64_t kept_before = b == 0 ? 0 : shared.kept[b - 1];
    if (warp == 0) {
      uint64_t left = 0, kept = 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        last[h] = next_last[h], own[h] = next_own[h];
        const bool alive = !(shared.removed[2 * b + h] >> lane & 1) && (last[h] & kept_before) == 0;
        left |= uint64_t(__ballot_sync(kAllLanes, alive)) << (h * kWarpSize);
      }
      if (b + 1 < blocks) load(b + 1);  // arrives while this block is decided
      const auto both = [&](auto predicate) {
        const unsigned low = __ballot_sync(kAllLanes, predicate(0));
        return low | uint64_t(__ballot_sync(kAllLanes, predicate(1))) << kWarpSize;
      };
      while (left != 0) {
        // What no undecided box can suppress is kept, and what that overlaps is not.
        const auto has = [&](uint64_t bits, int h) { return bits >> (h * kWarpSize + lane) & 1; };
        const uint64_t now = both([&](int h) { return has(left, h) && (own[h] & left) == 0; });
        left = both([&](int h) { return has(left & ~now, h) && (own[h] & now) == 0; });
        kept |= now;
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int bit = h * kWarpSize + lane;
        const int slot = total + __popcll(kept & ((uint64_t(1) << bit) - 1));
        if ((kept >> bit & 1) && slot < tile.most)
          positions[slot] = int32_t(tile.begin) + b * kWord + bit;
      }
      if (lane == 0) {
        shared.kept[b] = kept;
        shared.total[b] = min(total + __popcll(kept), tile.most);
      }
    } else {
      const int first = (warp - 1) % kWarpsPerChunk * kRowsPerWarp;
      const int word = (warp - 1) / kWarpsPerChunk * kWarpSize + lane;
      const unsigned rows = unsigned(kept_before >> first) & ((1u << kRowsPerWarp) - 1);
      if (rows != 0 && word > b && word < blocks) {
        const uint64_t* column = tile.mask_row(mask, segment, (b - 1) * kWord + first) + word;
        uint64_t bits = 0;
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r)
          if (rows >> r & 1) bits |= column[int64_t(r) * tile.stride];
        if (bits != 0) {
          atomicOr(&shared.removed[2 * word], unsigned(bits));
          atomicOr(&shared.removed[2 * word + 1], unsigned(bits >> kWarpSize));
        }
      }
    }
    __syncthreads();
    total = shared.total[b];
  }
  if (threadIdx.x == 0) counts[segment] = total;
  if (tile.begin + tile.rows == tile.count)
    for (int64_t slot = total + int64_t(threadIdx.x); slot < max_keep; slot += blockDim.x)
      positions[slot] = -1;
}

// As many boxes as keep the masks of all segments small, unless these are very many.
int64_t tile_boxes(int64_t segments, int64_t count) {
  int64_t boxes = kTileBoxes;
  const auto fitting = [&] { return std::min(boxes, round_up(count, kWord)); };
  while (boxes > kFewestTileBoxes && segments * fitting() * fitting() / 8 > kMaskBytes) boxes /= 2;
  return fitting();
}

}  // namespace

template <typename T>
void suppress_sorted(const OnDevice& device, const Tensor& like, const T* boxes,
                     const int64_t* groups, const uint8_t* competes, int64_t segments,
                     int64_t count, T threshold, int64_t max_keep, int32_t* positions,
                     int32_t* counts) {
  if (segments == 0) return;
  const Threshold<T> limit(threshold);
  if (count <= kSmall)
    return launch(device, suppress_small_kernel<T>, grid_of(segments), small_threads(count), 0,
                  boxes, groups, competes, int(count), limit, max_keep, positions, counts);

  const int64_t step = tile_boxes(segments, count), stride = step / kWord;
  Tensor mask = new_tensor(like, {segments, step, stride}, ScalarType::Long);
  Tensor removed = new_tensor(like, {segments, 2 * stride}, ScalarType::Int);
  auto* mask_data = reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>());
  auto* removed_data = reinterpret_cast<uint32_t*>(removed.mutable_data_ptr<int32_t>());
  for (int64_t begin = 0; begin < count; begin += step) {
    Tile tile = {count,
                 begin,
                 int(std::min(step, count - begin)),
                 int(stride),
                 int(std::min(max_keep, count)),
                 competes,
                 nullptr};
    if (begin > 0) {
      launch(device, test_against_kept<T>, grid_of(segments * ceil_div(tile.rows, kWarpSize)),
             kKeptAtOnce, 0, boxes, groups, tile, limit, max_keep, positions, counts, removed_data);
      tile.removed = removed_data;
    }
    const int64_t blocks = ceil_div(tile.rows, kWord);
    dim3 pairs = grid_of(segments * (blocks + 1));
    pairs.y = unsigned(ceil_div(blocks, 2));
    launch(device, test_pairs<T>, pairs, kWord, 0, boxes, groups, tile, limit, counts, mask_data);
    const int64_t warps = 1 + kWarpsPerChunk * ceil_div(blocks, kWarpSize);
    launch(device, resolve_rows, grid_of(segments), int(warps * kWarpSize), 0, tile, mask_data,
           max_keep, positions, counts);
  }
}

template void suppress_sorted<float>(const OnDevice&, const Tensor&, const float*, const int64_t*,
                                     const uint8_t*, int64_t, int64_t, float, int64_t, int32_t*,
                                     int32_t*);
template void suppress_sorted<double>(const OnDevice&, const Tensor&, const double*, const int64_t*,
                                      const uint8_t*, int64_t, int64_t, double, int64_t, int32_t*,
                                      int32_t*);

}  // namespace mrcnn
