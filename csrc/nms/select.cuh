// Selection and sorting of the best candidates by one block of threads. Candidates are keys of
// nms/rank.h: all differ, the largest is the best, and 0 never competes.
#pragma once

#include "common/cuda.cuh"
#include "nms/rank.h"

namespace mrcnn {

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

struct SelectScratch {
  unsigned histogram[kDigits];
  unsigned warp_total[32];
  int digit;
  unsigned above;
};

// Computes the sum of `value` over the threads up to and including this one. All threads of the
// block must call it; `warp_total` may be reused after the next barrier.
__device__ __forceinline__ unsigned sum_up_to_thread(unsigned value, unsigned* warp_total) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const unsigned before = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += before;
  }
  if (lane == kWarpSize - 1) warp_total[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; ++w) value += warp_total[w];
  return value;
}

// Returns the lowest key among the k best of key_at(0) … key_at(count - 1), for k > 0; 1 if fewer
// compete. All threads of the block must call it and get the same result.
//
// Digits are fixed from the highest to the lowest. A histogram of the next digit, over the keys
// that agree with the fixed digits, determines the digit of the k-th best.
template <int kThreads, typename KeyAt>
__device__ __forceinline__ uint64_t least_of_best(int64_t count, unsigned k, SelectScratch& scratch,
                                                  KeyAt key_at) {
  constexpr int kPerThread = kDigits / kThreads;
  uint64_t prefix = 0, fixed = 0;
  for (int shift = 64 - kDigitBits;; shift = shift > kDigitBits ? shift - kDigitBits : 0) {
    for (int i = threadIdx.x; i < kDigits; i += kThreads) scratch.histogram[i] = 0;
    if (threadIdx.x == 0) scratch.digit = -1;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t key = key_at(i);
      if (key != 0 && (key & fixed) == prefix)
        atomicAdd(&scratch.histogram[key >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    // This thread has the digits below those of the previous thread.
    const int highest = kDigits - 1 - int(threadIdx.x) * kPerThread;
    unsigned mine = 0;
    for (int i = 0; i < kPerThread; ++i) mine += scratch.histogram[highest - i];
    unsigned above = sum_up_to_thread(mine, scratch.warp_total) - mine;
    if (above < k && k <= above + mine) {
      int digit = highest;
      while (above + scratch.histogram[digit] < k) above += scratch.histogram[digit--];
      scratch.digit = digit, scratch.above = above;
    }
    __syncthreads();
    if (scratch.digit < 0) return 1;
    k -= scratch.above;
    // The lowest digit may overlap the previous one, whose bits are already fixed.
    prefix |= uint64_t(scratch.digit) << shift;
    fixed |= uint64_t(kDigits - 1) << shift;
    const bool all = scratch.histogram[scratch.digit] == k;
    __syncthreads();
    if (all || shift == 0) return prefix;
  }
}

// Sorts `size` keys, a power of two, in descending order. All threads of the block must call it,
// after a barrier; it ends with a barrier.
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
