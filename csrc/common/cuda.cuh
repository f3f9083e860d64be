// Shared by all CUDA launchers and kernels. The same sources also compile as C++ against
// tests/cuda_emulation. For that reason, a function launches kernels, and macros declare shared
// memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/device.h"
#include "common/tensor.h"

#ifdef CUDA_EMULATION
#include "torch_stand_in.h"
#else
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#define REGISTER_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(mrcnn, CUDA, m)

// Declares `type name` in the memory that a block shares.
#define SHARED(type, name) __shared__ std::type_identity_t<type> name
// Declares `type* name` at the shared memory whose size the launch sets.
#define DYNAMIC_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[]; \
  type* name = reinterpret_cast<type*>(dynamic_shared_memory)

namespace mrcnn {

// Makes the device of a tensor the current device, and holds its current stream.
struct OnDevice {
  explicit OnDevice(const Tensor& tensor)
      : index(tensor.get_device_index()), guard(tensor.get_device_index()) {
    void* current = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(index, &current) == 0,
                    "no current stream on CUDA device ", index);
    stream = static_cast<cudaStream_t>(current);
  }
  int32_t index;
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
};

}  // namespace mrcnn
#endif

namespace mrcnn {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

inline int device_attribute(const OnDevice& device, cudaDeviceAttr attribute) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device.index));
  return value;
}

// Runs `kernel` on the device's stream. An empty grid is allowed and does nothing.
template <typename... P, typename... A>
void launch(const OnDevice& device, void (*kernel)(P...), dim3 grid, int threads,
            size_t shared_bytes, A&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  // Without a request, 48 KB are available, including what kernels declare.
  constexpr size_t kDefault = 32 << 10;
  if (shared_bytes > kDefault)
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        int(shared_bytes)));
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = {unsigned(threads), 1, 1};
  config.dynamicSmemBytes = shared_bytes;
  config.stream = device.stream;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<A>(arguments)...));
}

// Several values that are loaded and stored as one word.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T value[kCount];
};

// The number of values in 16 bytes, the widest word that a thread loads.
template <typename T>
constexpr int kPerWord = 16 / sizeof(T);

template <typename T, int kCount, typename A>
HOST_DEVICE void load_pack(const T* p, A (&out)[kCount]) {
  const Pack<T, kCount> pack = *reinterpret_cast<const Pack<T, kCount>*>(p);
#pragma unroll
  for (int i = 0; i < kCount; ++i) out[i] = A(pack.value[i]);
}

template <typename T, int kCount, typename A>
HOST_DEVICE void store_pack(T* p, const A (&values)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.value[i] = T(values[i]);
  *reinterpret_cast<Pack<T, kCount>*>(p) = pack;
}

// Returns whether rows of `length` values at `p` can be accessed in packs of `count` values.
template <typename T>
bool fits_packs(const T* p, int64_t length, int count) {
  return length % count == 0 && uintptr_t(p) % (sizeof(T) * count) == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace mrcnn
