// Shared by all NMS kernels: a candidate box, the test of its overlap against the threshold, and
// the suppression of a few candidates by one block. The specification is `nms` in
// mrcnn/ops/reference.py.
#pragma once

#include <algorithm>

#include "common/box.h"
#include "common/cuda.cuh"

namespace mrcnn {

constexpr int kSmall = 512;  // boxes of a segment that one block suppresses, one a thread

template <typename T>
struct alignas(16) Candidate {
  Box<T> box;
  T area;
};

template <typename T>
__device__ __forceinline__ Candidate<T> load_candidate(const T* boxes, int64_t i) {
  const Box<T> box = load_box(boxes + i * 4);
  return {box, area(box)};
}

template <typename T>
struct Threshold {
  T value, enough;

  explicit Threshold(T threshold)
      : value(threshold), enough(threshold - std::abs(threshold) * T(1e-5)) {}

  // Returns iou(a, b) > value. The first comparison, with a slightly lower threshold, needs no
  // division and rejects nearly all pairs; the second decides. Minimum and maximum ignore NaN, but
  // a box with a NaN side has a NaN area, so the union is NaN and both comparisons are false.
  __device__ __forceinline__ bool overlaps(const Candidate<T>& a, const Candidate<T>& b) const {
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
  Candidate<T> candidate[kSmall];
  int64_t group[kSmall];
  unsigned kept[kSmall / kWarpSize];  // which boxes of each warp are kept
  int total[kSmall / kWarpSize];      // boxes kept up to and including each warp
};

// Suppresses the candidates of one segment. Thread t holds box t. The warps take turns: in round w,
// warp w decides which of its 32 boxes are kept, then later warps test their boxes against these.
// `index` translates positions into the caller's indices, unless it is nullptr.
template <typename T, typename Out>
__device__ __forceinline__ void suppress_small(SmallSegment<T>& segment, bool alive, int count,
                                               const Threshold<T>& threshold, int64_t max_keep,
                                               const int* index, Out* out, Out* out_count) {
  const int t = threadIdx.x, warp = t / kWarpSize, lane = t % kWarpSize;
  const int most = int(min(max_keep, int64_t(count)));
  Candidate<T> mine = {};
  int64_t group = 0;
  if (t < count) mine = segment.candidate[t], group = segment.group[t];
  const auto suppressed_by = [&](int other) {
    return threshold.overlaps(segment.candidate[other], mine) && segment.group[other] == group;
  };
  unsigned before = 0;  // boxes of this warp, better than this one, that would suppress it
  if (alive)
    for (int j = 0; j < lane; ++j)
      if (suppressed_by(t - lane + j)) before |= 1u << j;

  int total = 0;
  for (int round = 0; round * kWarpSize < count && total < most; ++round) {
    if (warp == round) {
      unsigned kept = 0, left = __ballot_sync(kAllLanes, alive);
      while (left != 0) {
        // Keep the boxes that no undecided box can suppress; then drop those that they suppress.
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
        if (suppressed_by(round * kWarpSize + __ffs(int(kept)) - 1)) alive = false;
  }
  for (int64_t slot = total + t; slot < max_keep; slot += blockDim.x) out[slot] = Out(-1);
  if (t == 0) *out_count = Out(total);
}

// Returns a grid of `blocks` blocks along x.
inline dim3 grid_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "nms: too many boxes for CUDA");
  return {unsigned(blocks), 1, 1};
}

inline int64_t round_up(int64_t value, int64_t step) { return ceil_div(value, step) * step; }

inline int small_threads(int64_t count) {
  return int(std::max<int64_t>(round_up(count, kWarpSize), 32));
}

}  // namespace mrcnn
