// What all kernels of NMS share: boxes that compete, their overlap against the threshold, and how
// one block suppresses a few of them.
#pragma once

#include <algorithm>

#include "common/box.h"
#include "common/cuda.cuh"

namespace mrcnn {

constexpr int kSmall = 512;  // boxes of a segment that one block suppresses, one a thread

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

// A grid of so many blocks along x.
inline dim3 grid_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "nms: too many boxes for CUDA");
  return {unsigned(blocks), 1, 1};
}

inline int64_t round_up(int64_t value, int64_t step) { return ceil_div(value, step) * step; }

inline int small_threads(int64_t count) {
  return int(std::max<int64_t>(round_up(count, kWarpSize), 32));
}

}  // namespace mrcnn
