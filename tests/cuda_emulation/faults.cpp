// Kernels with one planted fault each, to show that the emulation finds them.
//
// Prints the sum of 0 … 255 that a block takes; the name of a fault is its argument, "none" of
// none.
#include <cstdio>
#include <string>

#include "cuda_runtime.h"

constexpr int kThreads = 256;
enum class Fault { none, no_barrier, no_warp_barrier, past_shared, past_global, lonely_barrier };

void sum_block(Fault fault, const int* values, int* out) {
  int* partial = reinterpret_cast<int*>(emulation::machine.dynamic_shared.get());
  const int i = threadIdx.x;
  partial[fault == Fault::past_shared ? i + 1 : i] = values[i];
  for (int step = kThreads / 2; step >= 32; step /= 2) {
    if (fault != Fault::no_barrier) __syncthreads();
    if (i < step) partial[i] += partial[i + step];
  }
  if (i >= 32) return;
  for (int step = 16; step > 0; step /= 2) {
    if (fault != Fault::no_warp_barrier) __syncwarp();
    const int more = partial[i + step];
    if (fault != Fault::no_warp_barrier) __syncwarp();
    partial[i] += more;
  }
  if (i == 0) out[fault == Fault::past_global ? 1 : 0] = partial[0];
}

void wait_alone(Fault, const int*, int*) {
  if (threadIdx.x != 7) __syncthreads();
  if (threadIdx.x == 7) __syncwarp();
}

int main(int, char** arguments) {
  const std::string name = arguments[1];
  const Fault fault = name == "no barrier"        ? Fault::no_barrier
                      : name == "no warp barrier" ? Fault::no_warp_barrier
                      : name == "past shared"     ? Fault::past_shared
                      : name == "past global"     ? Fault::past_global
                      : name == "lonely barrier"  ? Fault::lonely_barrier
                                                  : Fault::none;
  std::vector<int> values(kThreads), sum(1);
  for (int i = 0; i < kThreads; ++i) values[i] = i;
  cudaLaunchConfig_t config = {};
  config.gridDim = {1, 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = kThreads * sizeof(int);
  const auto kernel = fault == Fault::lonely_barrier ? wait_alone : sum_block;
  if (cudaLaunchKernelEx(&config, kernel, fault, values.data(), sum.data()) != cudaSuccess)
    return 2;
  std::printf("%d\n", sum[0]);
}
