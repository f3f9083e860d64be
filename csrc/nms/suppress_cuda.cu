// Greedy suppression of boxes that are sorted best first; the specification is `nms` in
// mrcnn/ops/reference.py.
//
// A segment of at most kSmall boxes is suppressed by one block of threads. A larger one is cut into
// tiles, taken in order, with three kernels per tile:
//
//   1. test_against_kept   drops boxes of the tile that a box kept in an earlier tile suppresses
//   2. test_pairs          the whole device tests all pairs inside the tile; the overlaps become
//                          bits of a mask
//   3. resolve_rows        one block of threads per segment walks through the mask and keeps boxes
//
// So memory is O(boxes), and the number of launches depends on the shapes only.
#include <algorithm>

#include "nms/candidates.cuh"
#include "nms/nms.cuh"

namespace mrcnn {
namespace {

constexpr int kWord = 64;  // boxes per block of boxes: their overlaps are bits of one word
constexpr int kTileBoxes = 4096, kFewestTileBoxes = 1024;  // boxes per tile
constexpr int64_t kMaskBytes = 32 << 20;  // for the masks of all segments, which a large L2 holds
constexpr int kRowsPerWarp = 8;           // rows of the mask that a warp of resolve_rows reads
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
    segment.candidate[t] = load_candidate(boxes, i);
    segment.group[t] = group_of(groups, i);
  }
  __syncthreads();
  suppress_small(segment, alive, count, threshold, max_keep, nullptr,
                 positions + blockIdx.x * max_keep, counts + blockIdx.x);
}

// `rows` boxes of each segment, from `begin` on, in blocks of 64. The mask, (segments, stride * 64,
// stride) words of 64 bits, holds the overlaps of pairs; bit c of word w in row i stands for box
// 64 w + c. The words of row i have three meanings, by their distance from the block of box i:
//
//   w later than the next block    boxes that box i suppresses if it is kept
//   w its own block                better boxes in its block, which suppress box i if kept
//   w the block before             boxes there, which suppress box i if kept
//
// The word of the next block is not used: the next block has its own word for that pair.
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
  // The number of boxes that earlier tiles kept.
  __device__ __forceinline__ int known(int64_t segment, const int32_t* counts) const {
    return begin == 0 ? 0 : counts[segment];
  }
};

constexpr int kKeptAtOnce = 512;  // threads, too

template <typename T>
struct KeptChunk {
  Candidate<T> candidate[kKeptAtOnce];
  int64_t group[kKeptAtOnce];
  unsigned dead;
};

// A block of threads tests 32 boxes of a tile, one per lane, against all boxes that earlier tiles
// kept.
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
  Candidate<T> mine = {};
  int64_t group = 0;
  if (alive) {
    mine = load_candidate(boxes, tile.box(segment, i));
    group = group_of(groups, tile.box(segment, i));
  }
  unsigned dead = __ballot_sync(kAllLanes, !alive);
  if (t == 0) chunk.dead = dead;
  for (int start = 0; start < known && dead != kAllLanes; start += kKeptAtOnce) {
    if (start + t < known) {
      const int64_t kept = segment * tile.count + positions[start + t];
      chunk.candidate[t] = load_candidate(boxes, kept);
      chunk.group[t] = group_of(groups, kept);
    }
    __syncthreads();
    const int first = warp * kWarpSize, last = min(first + kWarpSize, known - start);
    if (alive)
      for (int j = first; j < last; ++j)
        if (threshold.overlaps(chunk.candidate[j], mine) && chunk.group[j] == group) alive = false;
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
  Candidate<T> candidate[kWord];
  int64_t group[kWord];
};

// A block of threads tests the pairs of two blocks of 64 boxes; each thread writes one word.
template <typename T>
__global__ void __launch_bounds__(kWord)
    test_pairs(const T* boxes, const int64_t* groups, const __grid_constant__ Tile tile,
               const __grid_constant__ Threshold<T> threshold, const int32_t* counts,
               uint64_t* mask) {
  SHARED(Columns<T>, columns);
  const int t = threadIdx.x, blocks = tile.blocks();
  const int64_t segment = blockIdx.x / (blocks + 1);
  // The triangle row <= column, folded into a rectangle of half its height.
  const int x = blockIdx.x % (blocks + 1), y = blockIdx.y;
  int row = x > y ? y : blocks - 1 - y, column = x > y ? x - 1 : blocks - 1 - x;
  if (x <= y && 2 * y == blocks - 1) return;  // the middle row is whole
  if (tile.known(segment, counts) >= tile.most) return;
  if (column == row + 1) column = row++;  // the pair belongs to the later block's rows
  const int i = row * kWord + t, j = column * kWord + t;

  const bool alive = tile.alive(segment, i);
  if (j < tile.rows) {
    columns.candidate[t] = load_candidate(boxes, tile.box(segment, j));
    columns.group[t] = group_of(groups, tile.box(segment, j));
  }
  __syncthreads();
  if (i >= tile.rows) return;
  uint64_t word = 0;
  if (alive) {
    const Candidate<T> mine = load_candidate(boxes, tile.box(segment, i));
    const int64_t group = group_of(groups, tile.box(segment, i));
    const int last = row == column ? t : min(kWord, tile.rows - column * kWord);
    for (int c = 0; c < last; ++c)
      if (threshold.overlaps(columns.candidate[c], mine) && columns.group[c] == group)
        word |= uint64_t(1) << c;
  }
  tile.mask_row(mask, segment, i)[column] = word;
}

struct Resolved {
  unsigned removed[2 * kMaxBlocks];  // bit i % 32 of word i / 32: box i is suppressed
  uint64_t kept[kMaxBlocks];         // which boxes of each block are kept
  int total[kMaxBlocks];             // kept up to and including each block
};

// The two boxes of a lane of the deciding warp (box `lane` and box `32 + lane` of a block), as
// words of the mask.
struct LaneRows {
  uint64_t previous[2] = {};  // boxes of the previous block that overlap it
  uint64_t own[2] = {};       // better boxes of its own block that overlap it

  __device__ __forceinline__ void load(const Tile& tile, uint64_t* mask, int64_t segment, int block,
                                       int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = block * kWord + half * kWarpSize + lane;
      if (i >= tile.rows) continue;
      const uint64_t* row = tile.mask_row(mask, segment, i);
      previous[half] = block == 0 ? 0 : row[block - 1];
      own[half] = row[block];
    }
  }
};

// Asks all lanes of a warp about both of their boxes; bit 32 * half + lane is the answer.
template <typename Predicate>
__device__ __forceinline__ uint64_t ballot_both(Predicate predicate) {
  const unsigned low = __ballot_sync(kAllLanes, predicate(0));
  return low | uint64_t(__ballot_sync(kAllLanes, predicate(1))) << kWarpSize;
}

// Greedy suppression inside one block of 64 boxes, by one warp. `undecided` are the boxes that no
// box of an earlier block suppresses; returns those that are kept.
__device__ __forceinline__ uint64_t decide_block(uint64_t undecided, const LaneRows& rows,
                                                 int lane) {
  const auto has = [&](uint64_t bits, int half) { return bits >> (half * kWarpSize + lane) & 1; };
  uint64_t kept = 0;
  while (undecided != 0) {
    // Keep the boxes that no undecided box can suppress; then drop those that they suppress.
    const uint64_t now = ballot_both(
        [&](int half) { return has(undecided, half) && (rows.own[half] & undecided) == 0; });
    undecided = ballot_both(
        [&](int half) { return has(undecided & ~now, half) && (rows.own[half] & now) == 0; });
    kept |= now;
  }
  return kept;
}

// Marks what the boxes kept in block `kept_block` suppress beyond the next block. `helper` counts
// the warps that share this: a warp takes 8 of the 64 boxes and 32 words of the mask, one a lane.
__device__ __forceinline__ void remove_suppressed(const Tile& tile, uint64_t* mask, int64_t segment,
                                                  int kept_block, uint64_t kept, int helper,
                                                  int lane, Resolved& shared) {
  const int first = helper % kWarpsPerChunk * kRowsPerWarp;
  const int word = helper / kWarpsPerChunk * kWarpSize + lane;
  const unsigned rows = unsigned(kept >> first) & ((1u << kRowsPerWarp) - 1);
  if (rows == 0 || word <= kept_block + 1 || word >= tile.blocks()) return;
  const uint64_t* column = tile.mask_row(mask, segment, kept_block * kWord + first) + word;
  uint64_t bits = 0;
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r)
    if (rows >> r & 1) bits |= column[int64_t(r) * tile.stride];
  if (bits == 0) return;
  atomicOr(&shared.removed[2 * word], unsigned(bits));
  atomicOr(&shared.removed[2 * word + 1], unsigned(bits >> kWarpSize));
}

// One block of threads decides which boxes of a segment's tile are kept, 64 boxes per step.
//
// In step b, warp 0 decides block b. It needs what the blocks before b - 1 suppress, which is in
// `removed`, and which boxes were kept in block b - 1, which its own words `previous` answer. So
// the other warps have one step more: in step b they add to `removed` what the boxes kept in block
// b - 1 suppress in blocks b + 1 and later. One barrier per step separates the two.
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

  LaneRows next;
  if (warp == 0) next.load(tile, mask, segment, 0, lane);
  for (int b = 0; b < blocks && total < tile.most; ++b) {
    const uint64_t kept_before = b == 0 ? 0 : shared.kept[b - 1];
    if (warp == 0) {
      const LaneRows rows = next;
      const uint64_t undecided = ballot_both([&](int half) {
        return !(shared.removed[2 * b + half] >> lane & 1) &&
               (rows.previous[half] & kept_before) == 0;
      });
      if (b + 1 < blocks) next.load(tile, mask, segment, b + 1, lane);  // arrives in the meantime
      const uint64_t kept = decide_block(undecided, rows, lane);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int bit = half * kWarpSize + lane;
        const int slot = total + __popcll(kept & ((uint64_t(1) << bit) - 1));
        if ((kept >> bit & 1) && slot < tile.most)
          positions[slot] = int32_t(tile.begin) + b * kWord + bit;
      }
      if (lane == 0) {
        shared.kept[b] = kept;
        shared.total[b] = min(total + __popcll(kept), tile.most);
      }
    } else {
      remove_suppressed(tile, mask, segment, b - 1, kept_before, warp - 1, lane, shared);
    }
    __syncthreads();
    total = shared.total[b];
  }
  if (threadIdx.x == 0) counts[segment] = total;
  if (tile.begin + tile.rows == tile.count)
    for (int64_t slot = total + int64_t(threadIdx.x); slot < max_keep; slot += blockDim.x)
      positions[slot] = -1;
}

// The boxes per tile: as many as keep the masks of all segments small, within the limits above.
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
