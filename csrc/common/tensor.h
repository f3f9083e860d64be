// Helpers for the stable tensor interface, used by all launchers on the host.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Exported by PyTorch >= 2.13. Older versions report which call failed, but not why.
extern "C" [[gnu::weak]] const char* torch_exception_get_what_without_backtrace();

namespace mrcnn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type for sums: float for the half types, otherwise the type itself.
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

// Returns `map` (N, C, H, W) with adjacent channels of each cell; copies only if necessary.
inline Tensor channels_last(const Tensor& map) {
  const int64_t c = map.size(1), h = map.size(2), w = map.size(3);
  const int64_t strides[4] = {h * w * c, 1, w * c, c};
  bool is_channels_last = true;
  for (int d = 0; d < 4; ++d) is_channels_last &= map.size(d) == 1 || map.stride(d) == strides[d];
  if (is_channels_last) return map;
  Tensor copy =
      new_tensor(map, {map.size(0), c, h, w}, map.scalar_type(), MemoryFormat::ChannelsLast);
  return torch::stable::copy_(copy, map);
}

// Rejects a tensor that a kernel would read out of bounds; -1 allows any size. The functions in
// mrcnn/ops give better messages, but exported graphs call the ops without them.
inline void check_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes,
                        const char* what) {
  bool fits = tensor.dim() == int64_t(sizes.size());
  int64_t d = 0;
  for (const int64_t size : sizes) {
    fits = fits && (size < 0 || tensor.size(d) == size);
    ++d;
  }
  STD_TORCH_CHECK(fits, what, ": the shape does not fit that of the other arguments");
}

// Runs `kernel`. If a call of PyTorch fails inside, the error gives PyTorch's own reason, which for
// lack of memory is what callers look for.
template <auto kernel>
struct Explained;
template <typename Result, typename... Arguments, Result (*kernel)(Arguments...)>
struct Explained<kernel> {
  static Result run(Arguments... arguments) {
    try {
      return kernel(std::move(arguments)...);
    } catch (const std::bad_alloc&) {
      throw std::runtime_error("out of memory: a kernel of mrcnn can't allocate memory");
    } catch (const std::runtime_error& error) {
      const std::string what = error.what();
      if (what.find("API call failed") == std::string::npos) throw;
      if (&torch_exception_get_what_without_backtrace != nullptr)
        throw std::runtime_error(torch_exception_get_what_without_backtrace());
      throw std::runtime_error("a call of PyTorch failed, probably out of memory: " + what);
    }
  }
};

// Boxes a kernel for registration.
#define BOX(kernel) TORCH_BOX(&::mrcnn::Explained<&kernel>::run)

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

}  // namespace mrcnn
