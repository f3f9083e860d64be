// NMS on the GPU. Few boxes: one block suppresses a segment on its own. More: the overlaps of all
// pairs in a tile of boxes are tested by the whole device and resolved by one block a segment,
// after the tile was tested against what earlier tiles kept; so memory is of O(boxes), and the
// number of launches depends on the shapes only.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common/box.h"
#include "nms/nms.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;
constexpr int kSmall = 512;           // boxes of a segment that one block suppresses, one a thread
constexpr int kSortedByBlock = 4096;  // boxes whose keys fit 48 KB
constexpr int kWord = 64;             // boxes whose overlaps with another are bits of one word
constexpr int kTileBoxes = 4096, kFewestTileBoxes = 1024;  // whose pairs are tested at once
constexpr int64_t kMaskBytes = 32 << 20;  // of the masks of all segments, to stay in a large L2
constexpr int kRowsPerWarp = 8;           // that a warp of the resolving block collects
constexpr int kWarpsPerChunk = kWord / kRowsPerWarp;
constexpr int kMaxBlocks = kTileBoxes / kWord;

template <typename T>
constexpr T kNever = -std::numeric_limits<T>::infinity();  // the key of what does not compete

template <typename T>
struct alignas(16) Rival {
  Box<T> box;
  T area;
};

template <typename T>
__device__ __forceinline__ Rival<T> load_rival(const T* boxes, int64_t i) {
  const Box<T> box = load_box(boxes + i * 4);
  return {box, area(box)};
}

template <typename T>
struct Threshold {
  T value, enough;

  explicit Threshold(T threshold)
      : value(threshold), enough(threshold - std::abs(threshold) * T(1e-5)) {}

  // iou(a, b) > value. An overlap over the threshold, roundings included, is over `enough` of the
  // union, too, which spares nearly all pairs the division. Minimum and maximum pass over NaN, but
  // a NaN side can only come from a box whose area is NaN, and then the union is.
  __device__ __forceinline__ bool exceeded(const Rival<T>& a, const Rival<T>& b) const {
    const T width = min(a.box.x2, b.box.x2) - max(a.box.x1, b.box.x1);
    const T height = min(a.box.y2, b.box.y2) - max(a.box.y1, b.box.y1);
    const T overlap = max(width, T(0)) * max(height, T(0));
    const T total = a.area + b.area - overlap;
    return overlap >= enough * total && overlap / total > value;
  }
};

__device__ __forceinline__ int64_t group_of(const int64_t* groups, int64_t i) {
  return groups == nullptr ? 0 : groups[i];
}

// ---- One block a segment ----

template <typename T>
struct SmallSegment {
  Rival<T> rival[kSmall];
  int64_t group[kSmall];
  unsigned kept[kSmall / kWarpSize];  // of each warp's boxes
  int total[kSmall / kWarpSize];      // kept up to and with each warp
};

// Thread t holds box t; the warps decide in turn which of their boxes are kept, and all later ones
// test theirs against these. `index` renames positions, unless it is nullptr.
template <typename T, typename Out>
__device__ __forceinline__ void suppress_small(SmallSegment<T>& segment, bool alive, int count,
                                               const Threshold<T>& threshold, int64_t max_keep,
                                               const int* index, Out* out, Out* out_count) {
  const int t = threadIdx.x, warp = t / kWarpSize, lane = t % kWarpSize;
  const int most = int(min(max_keep, int64_t(count)));
  Rival<T> mine = {};
  int64_t group = 0;
  if (t < count) mine = segment.rival[t], group = segment.group[t];
  const auto overlaps = [&](int other) {
    return threshold.exceeded(segment.rival[other], mine) && segment.group[other] == group;
  };
  unsigned before = 0;  // which boxes of this warp would suppress this one
  if (alive)
    for (int j = 0; j < lane; ++j)
      if (overlaps(t - lane + j)) before |= 1u << j;

  int total = 0;
  for (int round = 0; round * kWarpSize < count && total < most; ++round) {
    if (warp == round) {
      unsigned kept = 0, left = __ballot_sync(kAllLanes, alive);
      while (left != 0) {
        // What no undecided box can suppress is kept, and what that overlaps is not.
        const unsigned now = __ballot_sync(kAllLanes, (left >> lane & 1) && (before & left) == 0);
        left = __ballot_sync(kAllLanes, (left & ~now) >> lane & 1 && (before & now) == 0);
        kept |= now;
      }
      const int slot = total + __popc(kept & ((1u << lane) - 1));
      if ((kept >> lane & 1) && slot < most) out[slot] = Out(index == nullptr ? t : index[t]);
      if (lane == 0) {
        segment.kept[round] = kept;
        segment.total[round] = min(total + __popc(kept), most);
      }
    }
    __syncthreads();
    total = segment.total[round];
    if (warp > round && __any_sync(kAllLanes, alive))
      for (unsigned kept = segment.kept[round]; kept != 0; kept &= kept - 1)
        if (overlaps(round * kWarpSize + __ffs(int(kept)) - 1)) alive = false;
  }
  for (int64_t slot = total + t; slot < max_keep; slot += blockDim.x) out[slot] = Out(-1);
  if (t == 0) *out_count = Out(total);
}

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

// ---- Sort ----

// Padding (-inf), NaN and boxes with NaN never compete, and go last.
template <typename T>
__device__ __forceinline__ T key_of(const T* boxes, const T* scores, int64_t i) {
  return scores[i] > kNever<T> && !has_nan(load_box(boxes + i * 4)) ? scores[i] : kNever<T>;
}

// Puts the keys of a segment, and beside them their indices, into shared memory, best first, ties
// to the lower index. Room is for the next power of two.
template <typename T>
__device__ __forceinline__ void sort_segment(const T* boxes, const T* scores, int count, T* key,
                                             int* index) {
  int padded = 1;
  while (padded < count) padded *= 2;
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    key[i] = i < count ? key_of(boxes, scores, i) : kNever<T>;
    index[i] = i;
  }
  __syncthreads();
  for (int run = 2; run <= padded; run *= 2)  // bitonic
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int pair = threadIdx.x; pair < padded / 2; pair += blockDim.x) {
        const int i = 2 * pair - (pair & (stride - 1)), j = i + stride;
        const T a = key[i], b = key[j];
        const bool ordered = a > b || (a == b && index[i] < index[j]);
        if (ordered != ((i & run) == 0)) {
          key[i] = b, key[j] = a;
          const int moved = index[i];
          index[i] = index[j], index[j] = moved;
        }
      }
      // Up to a stride of its size a warp's pairs are of boxes that no other warp touches.
      const int next = stride > 1 ? stride / 2 : run;
      if (max(stride, next) > kWarpSize)
        __syncthreads();
      else
        __syncwarp();
    }
  __syncthreads();
}

// The boxes of all segments, best first.
template <typename T>
struct Sorted {
  T* boxes;
  int64_t* groups;  // nullptr if there are none
  uint8_t* competes;
  int64_t* order;  // where they stood in their segment
};

template <typename T>
__device__ __forceinline__ void place(const Sorted<T>& sorted, const T* boxes,
                                      const int64_t* groups, int64_t to, int64_t from,
                                      bool competes, int64_t index) {
  const Box<T> box = load_box(boxes + from * 4);
  T* out = sorted.boxes + to * 4;
  out[0] = box.x1, out[1] = box.y1, out[2] = box.x2, out[3] = box.y2;
  if (groups != nullptr) sorted.groups[to] = groups[from];
  sorted.competes[to] = competes;
  sorted.order[to] = index;
}

template <typename T>
__global__ void __launch_bounds__(1024)
    sort_kernel(const T* boxes, const T* scores, const int64_t* groups, int count, int padded,
                const __grid_constant__ Sorted<T> sorted) {
  DYNAMIC_SHARED(T, key);
  int* index = reinterpret_cast<int*>(key + padded);
  const int64_t first = int64_t(blockIdx.x) * count;
  sort_segment(boxes + first * 4, scores + first, count, key, index);
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    place(sorted, boxes, groups, first + i, first + index[i], key[i] > kNever<T>, index[i]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    make_keys(const T* boxes, const T* scores, int64_t total, T* keys) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  // 0 is added because -0 ranks with 0.
  if (i < total) keys[i] = key_of(boxes, scores, i) + T(0);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gather_sorted(const T* boxes, const int64_t* groups, const T* keys, int64_t count,
                  int64_t total, const __grid_constant__ Sorted<T> sorted) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t index = sorted.order[i];
  place(sorted, boxes, groups, i, i / count * count + index, keys[i] > kNever<T>, index);
}

template <typename T>
__global__ void __launch_bounds__(kSmall)
    nms_small_kernel(const T* boxes, const T* scores, const int64_t* groups, int count,
                     const __grid_constant__ Threshold<T> threshold, int64_t max_keep,
                     int64_t* indices, int64_t* counts) {
  SHARED(SmallSegment<T>, segment);
  SHARED(T[kSmall], key);
  SHARED(int[kSmall], index);
  const int64_t first = int64_t(blockIdx.x) * count;
  sort_segment(boxes + first * 4, scores + first, count, key, index);
  const int t = threadIdx.x;
  bool alive = false;
  if (t < count) {
    alive = key[t] > kNever<T>;
    segment.rival[t] = load_rival(boxes, first + index[t]);
    segment.group[t] = group_of(groups, first + index[t]);
  }
  __syncthreads();
  suppress_small(segment, alive, count, threshold, max_keep, &index[0],
                 indices + blockIdx.x * max_keep, counts + blockIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    write_indices(const int32_t* positions, const int32_t* kept, const int64_t* order,
                  int64_t segments, int64_t count, int64_t columns, int64_t max_keep,
                  int64_t* indices, int64_t* counts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < segments) counts[i] = kept[i];
  if (i >= segments * max_keep) return;
  const int64_t segment = i / max_keep, slot = i % max_keep;
  indices[i] =
      slot < kept[segment] ? order[segment * count + positions[segment * columns + slot]] : -1;
}

// ---- Tiles ----

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

// ---- Host side ----

// A grid of so many blocks along x.
dim3 grid_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "nms: too many boxes for CUDA");
  return {unsigned(blocks), 1, 1};
}

int64_t round_up(int64_t value, int64_t step) { return ceil_div(value, step) * step; }

int small_threads(int64_t count) { return int(std::max<int64_t>(round_up(count, kWarpSize), 32)); }

// As many boxes as keep the masks of all segments small, unless these are very many.
int64_t tile_boxes(int64_t segments, int64_t count) {
  int64_t boxes = kTileBoxes;
  const auto fitting = [&] { return std::min(boxes, round_up(count, kWord)); };
  while (boxes > kFewestTileBoxes && segments * fitting() * fitting() / 8 > kMaskBytes) boxes /= 2;
  return fitting();
}

// Calls aten::sort: by falling values along the last dimension, equal ones in their order.
std::tuple<Tensor, Tensor> sort_falling(const Tensor& keys) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(true)), from(int64_t(-1)),
                                    from(true)};
  STD_TORCH_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION) == 0,
      "nms: aten::sort failed");
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
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

std::tuple<Tensor, Tensor> nms_cuda(Tensor boxes, Tensor scores, Tensor groups,
                                    double iou_threshold, int64_t max_keep) {
  check_shape(boxes, {-1, -1, 4}, "nms: boxes (S, K, 4)");
  check_shape(scores, {boxes.size(0), boxes.size(1)}, "nms: scores (S, K)");
  check_shape(groups, {boxes.size(0), groups.numel() ? boxes.size(1) : -1}, "nms: groups (S, K)");
  STD_TORCH_CHECK(max_keep >= 0, "nms: max_keep must be at least 0, got ", max_keep);
  const OnDevice device(boxes);
  const ScalarType dtype =
      boxes.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  boxes = torch::stable::contiguous(torch::stable::to(boxes, dtype));
  scores = torch::stable::contiguous(torch::stable::to(scores, dtype));
  groups = torch::stable::contiguous(groups);
  const int64_t segments = boxes.size(0), count = boxes.size(1), total = segments * count;
  STD_TORCH_CHECK(count <= INT32_MAX, "nms: a segment must hold less than 2^31 boxes, got ", count);
  const int64_t* group_data = groups.numel() ? groups.const_data_ptr<int64_t>() : nullptr;

  Tensor indices = new_tensor(boxes, {segments, max_keep}, ScalarType::Long);
  Tensor counts = new_tensor(boxes, {segments}, ScalarType::Long);
  if (segments == 0) return {indices, counts};
  int64_t* index_data = indices.mutable_data_ptr<int64_t>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();

  dispatch_floating(dtype, "nms", [&](auto zero) {
    using T = typename Accumulate<decltype(zero)>::type;
    const T* box_data = boxes.const_data_ptr<T>();
    const T* score_data = scores.const_data_ptr<T>();
    if (count <= kSmall)
      return launch(device, nms_small_kernel<T>, grid_of(segments), small_threads(count), 0,
                    box_data, score_data, group_data, int(count), Threshold<T>(T(iou_threshold)),
                    max_keep, index_data, count_data);

    Tensor sorted_boxes = new_tensor(boxes, {segments, count, 4}, dtype);
    Tensor sorted_groups = new_tensor(boxes, {group_data ? total : 0}, ScalarType::Long);
    Tensor competes = new_tensor(boxes, {segments, count}, ScalarType::Byte);
    const auto sorted_into = [&](Tensor& order) {
      return Sorted<T>{sorted_boxes.mutable_data_ptr<T>(),
                       group_data ? sorted_groups.mutable_data_ptr<int64_t>() : nullptr,
                       competes.mutable_data_ptr<uint8_t>(), order.mutable_data_ptr<int64_t>()};
    };
    const dim3 grid = grid_of(ceil_div(total, kThreads));
    Tensor order;
    if (count <= kSortedByBlock) {
      order = new_tensor(boxes, {segments, count}, ScalarType::Long);
      int padded = 1;
      while (padded < count) padded *= 2;
      launch(device, sort_kernel<T>, grid_of(segments), std::min(padded / 2, 1024),
             padded * (sizeof(T) + sizeof(int)), box_data, score_data, group_data, int(count),
             padded, sorted_into(order));
    } else {
      Tensor keys = new_tensor(boxes, {segments, count}, dtype);
      launch(device, make_keys<T>, grid, kThreads, 0, box_data, score_data, total,
             keys.mutable_data_ptr<T>());
      std::tie(keys, order) = sort_falling(keys);
      launch(device, gather_sorted<T>, grid, kThreads, 0, box_data, group_data,
             keys.const_data_ptr<T>(), count, total, sorted_into(order));
    }

    const int64_t columns = std::min(max_keep, count);
    Tensor positions = new_tensor(boxes, {segments, columns}, ScalarType::Int);
    Tensor kept = new_tensor(boxes, {segments}, ScalarType::Int);
    const Sorted<T> sorted = sorted_into(order);
    suppress_sorted<T>(device, boxes, sorted.boxes, sorted.groups, sorted.competes, segments, count,
                       T(iou_threshold), columns, positions.mutable_data_ptr<int32_t>(),
                       kept.mutable_data_ptr<int32_t>());
    launch(device, write_indices,
           grid_of(ceil_div(segments * std::max<int64_t>(max_keep, 1), kThreads)), kThreads, 0,
           positions.const_data_ptr<int32_t>(), kept.const_data_ptr<int32_t>(), sorted.order,
           segments, count, columns, max_keep, index_data, count_data);
  });
  return {indices, counts};
}

REGISTER_CUDA(m) { m.impl("nms", TORCH_BOX(&nms_cuda)); }

}  // namespace mrcnn
