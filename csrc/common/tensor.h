// What every host-side launcher needs from the stable tensor interface.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace mrcnn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type that sums are kept in: float for the half types, else the type itself.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};

inline Tensor new_tensor(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype,
                         MemoryFormat format = MemoryFormat::Contiguous) {
  return torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt, format);
}

// Asks for huge pages where an output on the host is large. Fresh memory is mapped page by page as
// it is first written, and for 50 MB in pages of 4 KB this takes longer than pooling 1000 RoIs.
inline void prefer_huge_pages(void* data, size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  constexpr size_t kLarge = size_t(4) << 20;
  if (bytes < kLarge) return;
  const uintptr_t begin = (uintptr_t(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (uintptr_t(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Calls `body` with a value of the C++ type of `dtype`.
template <typename Body>
void dispatch_floating(ScalarType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Half:
      return body(c10::Half{});
    case ScalarType::BFloat16:
      return body(c10::BFloat16{});
    default:
      STD_TORCH_CHECK(false, op, ": dtype must be float32, float64, float16 or bfloat16");
  }
}

// The loops of a kernel compiled twice, for AVX2 machines and for all others; the choice is made
// once, when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif

}  // namespace mrcnn
