// What PyTorch offers kernels on a GPU, where there is none.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "cuda_runtime.h"

#undef STD_CUDA_CHECK
#define STD_CUDA_CHECK(call)                                          \
  do {                                                                \
    const cudaError_t error = call;                                   \
    STD_TORCH_CHECK(error == cudaSuccess, #call " returned ", error); \
  } while (false)

// Kernels answer for tensors on the CPU.
#define REGISTER_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m)

#define SHARED(type, name)                           \
  static ::emulation::Shared<type> name##_of_kernel; \
  auto& name = name##_of_kernel.of_block()

#define DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::emulation::machine.dynamic_shared.get())

namespace mrcnn {

// The device and stream that a launcher works on.
struct OnDevice {
  template <typename Tensor>
  explicit OnDevice(const Tensor&) {}
  int index = 0;
  cudaStream_t stream = nullptr;
};

}  // namespace mrcnn
