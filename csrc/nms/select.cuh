// The best of many candidates, chosen and put in order by one block. Candidates are keys of
// nms/rank.h: all differ, the largest is the best, 0 never competes.
#pragma once

#include "common/cuda.cuh"
#include "nms/rank.h"

namespace mrcnn {

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

struct SelectScratch {
  unsigned have[kDigits];
  unsigned of_warp[32];
  int digit;
  unsigned above;
};

// The inclusive sum of `value` over the threads of the block up to this one. All threads call it;
// `of_warp` may be used again after the next barrier.
__device__ __forceinline__ unsigned sum_up_to_thread(unsigned value, unsigned* of_warp) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const unsigned before = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += before;
  }
  if (lane == kWarpSize - 1) of_warp[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; ++w) value += of_warp[w];
  return value;
}

// The least key of the k best of key_at(0) … key_at(count - 1), for k > 0; 1 if fewer compete. All
// threads of the block call it and get the same.
//
// Digits are fixed from the highest down: a histogram of the next digit, among the keys that agree
// with those fixed, tells in which the k-th best lies.
template <int kThreads, typename KeyAt>
__device__ __forceinline__ uint64_t least_of_best(int64_t count, unsigned k, SelectScratch& scratch,
                                                  KeyAt key_at) {
  constexpr int kPerThread = kDigits / kThreads;
  uint64_t prefix = 0, fixed = 0;
  for (int shift = 64 - kDigitBits;; shift = shift > kDigitBits ? shift - kDigitBits : 0) {
    for (int i = threadIdx.x; i < kDigits; i += kThreads) scratch.have[i] = 0;
    if (threadIdx.x == 0) scratch.digit = -1;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t key = key_at(i);
      if (key != 0 && (key & fixed) == prefix)
        atomicAdd(&scratch.have[key >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    // This thread's digits are the next lower ones after those of the thread before.
    const int highest = kDigits - 1 - int(threadIdx.x) * kPerThread;
    unsigned mine = 0;
    for (int i = 0; i < kPerThread; ++i) mine += scratch.have[highest - i];
    unsigned above = sum_up_to_thread(mine, scratch.of_warp) - mine;
    if (above < k && k <= above + mine) {
      int digit = highest;
      while (above + scratch.have[digit] < k) above += scratch.have[digit--];
      scratch.digit = digit, scratch.above = above;
    }
    __syncthreads();
    if (scratch.digit < 0) return 1;
    k -= scratch.above;
    // The lowest digit may overlap the one before, whose bits are fixed already.
    prefix |= uint64_t(scratch.digit) << shift;
    fixed |= uint64_t(kDigits - 1) << shift;
    const bool all = scratch.have[scratch.digit] == k;
    __syncthreads();
    if (all || shift == 0) return prefix;
  }
}

// Puts `size` keys, a power of two, into falling order. All threads of the block call it, after a
// barrier; it ends with one.
template <int kThreads>
__device__ __forceinline__ void sort_falling(uint64_t* keys, int size) {
  for (int length = 2; length <= size; length *= 2)
    for (int step = length / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const bool falling = (low & length) == 0;
        const uint64_t a = keys[low], b = keys[high];
        if ((a < b) == falling) keys[low] = b, keys[high] = a;
      }
      __syncthreads();
    }
}

inline int64_t power_of_two(int64_t least) {
  int64_t size = 1;
  while (size < least) size *= 2;
  return size;
}

}  // namespace mrcnn
