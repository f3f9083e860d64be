// Prefix sums over the threads of a block.
#pragma once

#include "common/cuda.cuh"

namespace mrcnn {

template <typename T>
struct Scanned {
  T before, total;  // over the threads before this one; over all threads
};

// Scans one value per thread of a block with kThreads threads. `op(a, b)` must be associative, and
// `none` its neutral element. All threads must call it.
template <int kThreads, typename T, typename Op>
__device__ __forceinline__ Scanned<T> scan_block(T value, T none, const Op& op) {
  constexpr int kWarps = kThreads / kWarpSize;
  struct Totals {
    T of_warp[kWarps];
  };
  SHARED(Totals, totals);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (int reach = 1; reach < kWarpSize; reach *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, reach);
    if (lane >= reach) value = op(other, value);
  }
  const T of_lanes = __shfl_up_sync(kAllLanes, value, 1);
  __syncthreads();  // all threads have read the totals of an earlier scan
  if (lane == kWarpSize - 1) totals.of_warp[warp] = value;
  __syncthreads();
  T before = none, total = none;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) before = total;
    total = op(total, totals.of_warp[w]);
  }
  return {lane == 0 ? before : op(before, of_lanes), total};
}

template <int kThreads, typename T>
__device__ __forceinline__ Scanned<T> sum_block(T value) {
  return scan_block<kThreads>(value, T(0), [](T a, T b) { return a + b; });
}

}  // namespace mrcnn
