// A stand-in for the CUDA runtime that runs kernels on the CPU, so that the very sources nvcc
// compiles can be tested where there is no GPU.
//
// A launch runs its blocks one after the other in random order. The threads of a block are fibers
// with stacks of their own; whoever is ready goes on, chosen at random, until it waits at a barrier
// or a warp operation. Lanes of a warp run independently, as on hardware since Volta, so a barrier
// or `__syncwarp` that is missing shows as a wrong answer, and one that some threads never reach as
// an error. Shared memory lies on the heap, where AddressSanitizer watches its ends, and holds
// garbage when a block starts.
//
// What is not emulated: blocks that wait for each other, asynchronous copies, textures.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define CUDA_EMULATION

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// ---- Host side ----

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

// Of the thread that runs.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s\n", what);
  std::abort();
}

constexpr size_t kDefaultSharedMemory = 48 << 10;  // what a kernel gets without asking for more
constexpr size_t kMaxSharedMemory = 227 << 10;     // sm_90
constexpr int kWarpSize = 32;
constexpr size_t kStackBytes = 128 << 10;

enum class Wait { nothing, block, warp, end };

struct Fiber {
  dim3 thread;
  int rank;  // of the thread in its block
  Wait wait;
  unsigned mask;                           // lanes that a warp operation waits for
  uint64_t value;                          // what this thread brings to a barrier
  std::array<uint64_t, kWarpSize> values;  // what all lanes brought
  uint64_t count, any, all;                // over the block
  void* stack_pointer;
  std::byte* stack;
  void* fake_stack;  // AddressSanitizer's
};

// Saves the callee's registers and the stack at `*from`, and goes on where `to` was saved.
#if defined(__x86_64__)
__attribute__((naked, noinline)) inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
  )");
}
constexpr int kSavedRegisters = 6;
#else
#error "the emulation switches stacks on x86-64 only"
#endif

// The launch that is running; one at a time, since autograd calls kernels from its own threads.
struct Machine {
  std::mutex mutex;
  std::minstd_rand random{1};
  uint64_t block_serial = 0;  // differs for every block of every launch
  std::unique_ptr<std::byte[]> dynamic_shared;
  std::function<void()> body;
  std::vector<Fiber> fibers;
  std::vector<int> ready;
  int running = 0, alive = 0;
  void* scheduler = nullptr;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;

  Fiber& self() { return fibers[running]; }

  void enter(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack, kStackBytes);
#endif
    switch_stack(&scheduler, fiber.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
  }

  // From a fiber back to the scheduler.
  void leave() {
    Fiber& fiber = self();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fiber.wait == Wait::end ? nullptr : &fiber.fake_stack,
                                   scheduler_stack, scheduler_stack_bytes);
#endif
    switch_stack(&fiber.stack_pointer, scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self().fake_stack, nullptr, nullptr);
#endif
  }

  static void run_thread();

  void start(Fiber& fiber) {
    fiber.wait = Wait::nothing;
    fiber.fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, kStackBytes);
#endif
    // As `switch_stack` leaves it: registers, then where to return to; the stack is aligned as
    // after a call.
    auto** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 2;
    *top = reinterpret_cast<void*>(&Machine::run_thread);
    fiber.stack_pointer = top - kSavedRegisters;
  }

  void release_block() {
    uint64_t count = 0;
    for (const Fiber& f : fibers)
      if (f.wait == Wait::block) count += f.value != 0;
    for (Fiber& f : fibers)
      if (f.wait == Wait::block) {
        f.count = count, f.any = count > 0, f.all = count == uint64_t(alive);
        f.wait = Wait::nothing;
        ready.push_back(f.rank);
      }
  }

  // Lets the lanes of `fiber`'s mask go on if all of them wait for each other.
  void release_warp(const Fiber& fiber) {
    const int first = fiber.rank / kWarpSize * kWarpSize;
    const unsigned mask = fiber.mask;
    std::array<uint64_t, kWarpSize> values{};
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (!(mask >> lane & 1)) continue;
      if (first + lane >= int(fibers.size()))
        fail("a warp operation names lanes that do not exist");
      const Fiber& other = fibers[first + lane];
      if (other.wait == Wait::end) fail("a warp operation names a lane that has returned");
      if (other.wait != Wait::warp) return;
      if (other.mask != mask) fail("lanes of a warp operation disagree about its mask");
      values[lane] = other.value;
    }
    for (int lane = 0; lane < kWarpSize; ++lane)
      if (mask >> lane & 1) {
        Fiber& other = fibers[first + lane];
        other.values = values;
        other.wait = Wait::nothing;
        ready.push_back(other.rank);
      }
  }

  void run_block() {
    ++block_serial;
    ready.clear();
    for (Fiber& fiber : fibers) start(fiber), ready.push_back(fiber.rank);
    alive = int(fibers.size());
    int waiting = 0;  // at the barrier of the block
    while (alive > 0) {
      if (ready.empty()) fail("some threads wait at a barrier that others never reach");
      std::swap(ready[random() % ready.size()], ready.back());
      running = ready.back();
      threadIdx = fibers[running].thread;
      ready.pop_back();
      enter(self());
      const Fiber& fiber = self();
      if (fiber.wait == Wait::end) --alive;
      if (fiber.wait == Wait::block) ++waiting;
      if (fiber.wait == Wait::warp) release_warp(fiber);
      if (waiting > 0 && waiting == alive) release_block(), waiting = 0;
    }
  }

  cudaError_t launch(const cudaLaunchConfig_t& config, size_t shared_limit,
                     std::function<void()> call) {
    const std::lock_guard<std::mutex> lock(mutex);
    gridDim = config.gridDim, blockDim = config.blockDim, body = std::move(call);
    const size_t threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
    const size_t blocks = size_t(gridDim.x) * gridDim.y * gridDim.z;
    if (threads == 0 || threads > 1024 || blocks == 0 || gridDim.y > 65535 || gridDim.z > 65535 ||
        gridDim.x > 0x7FFFFFFF || config.dynamicSmemBytes > shared_limit)
      return cudaErrorInvalidConfiguration;
    resize(threads);
    std::vector<size_t> order(blocks);
    for (size_t i = 0; i < blocks; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) {
      blockIdx = {unsigned(i % gridDim.x), unsigned(i / gridDim.x % gridDim.y),
                  unsigned(i / gridDim.x / gridDim.y)};
      dynamic_shared.reset(new std::byte[config.dynamicSmemBytes]);
      std::memset(dynamic_shared.get(), 0xFB, config.dynamicSmemBytes);
      run_block();
    }
    dynamic_shared.reset();
    return cudaSuccess;
  }

 private:
  void resize(size_t threads) {
    while (stacks.size() < threads) stacks.emplace_back(new std::byte[kStackBytes]);
    fibers.resize(threads);
    for (size_t i = 0; i < threads; ++i) {
      fibers[i].rank = int(i);
      fibers[i].stack = stacks[i].get();
      fibers[i].thread = {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y),
                          unsigned(i / blockDim.x / blockDim.y)};
    }
  }

  std::vector<std::unique_ptr<std::byte[]>> stacks;
};

inline Machine machine;

inline void Machine::run_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack,
                                  &machine.scheduler_stack_bytes);
#endif
  machine.body();
  machine.self().wait = Wait::end;
  machine.leave();
}

inline const Fiber& wait_for_block(uint64_t value) {
  Fiber& self = machine.self();
  self.wait = Wait::block, self.value = value;
  machine.leave();
  return self;
}

template <typename T>
uint64_t as_word(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}

template <typename T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

template <typename T>
const Fiber& exchange(unsigned mask, T value) {
  Fiber& self = machine.self();
  if (!(mask >> (self.rank % kWarpSize) & 1)) fail("a lane calls a warp operation without it");
  self.wait = Wait::warp, self.mask = mask, self.value = as_word(value);
  machine.leave();
  return self;
}

template <typename T>
T shuffle(unsigned mask, T value, int source, int width, bool in_range) {
  const Fiber& self = exchange(mask, value);
  const int lane = self.rank % kWarpSize;
  if (!in_range) return value;
  source = lane / width * width + source % width;
  if (!(mask >> source & 1)) fail("a shuffle reads a lane outside of its mask");
  return from_word<T>(self.values[source]);
}

// One `__shared__` variable: garbage at the start of every block.
template <typename T>
class Shared {
 public:
  T& of_block() {
    if (serial_ != machine.block_serial) {
      serial_ = machine.block_serial;
      memory_.reset(new std::byte[sizeof(T)]);
      std::memset(memory_.get(), 0xFB, sizeof(T));
    }
    return *reinterpret_cast<T*>(memory_.get());
  }

 private:
  uint64_t serial_ = 0;
  std::unique_ptr<std::byte[]> memory_;
};

// How much dynamic shared memory a kernel may use.
inline std::vector<std::pair<const void*, size_t>> shared_limits;

inline size_t& shared_limit(const void* kernel) {
  for (auto& [known, limit] : shared_limits)
    if (known == kernel) return limit;
  return shared_limits.emplace_back(kernel, kDefaultSharedMemory).second;
}

}  // namespace emulation

template <typename... P, typename... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                               A&&... arguments) {
  return emulation::machine.launch(*config,
                                   emulation::shared_limit(reinterpret_cast<const void*>(kernel)),
                                   [&] { kernel(P(arguments)...); });
}

template <typename... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int bytes) {
  if (bytes < 0 || size_t(bytes) > emulation::kMaxSharedMemory) return cudaErrorInvalidValue;
  emulation::shared_limit(reinterpret_cast<const void*>(kernel)) = bytes;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // Few multiprocessors, so that small cases have more blocks than these.
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : int(emulation::kMaxSharedMemory);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

// ---- Device side ----

using std::max;
using std::min;

inline void __syncthreads() { emulation::wait_for_block(0); }
inline int __syncthreads_count(int predicate) {
  return int(emulation::wait_for_block(predicate != 0).count);
}
inline int __syncthreads_or(int predicate) {
  return int(emulation::wait_for_block(predicate != 0).any);
}
inline int __syncthreads_and(int predicate) {
  return int(emulation::wait_for_block(predicate != 0).all);
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { emulation::exchange(mask, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto& values = emulation::exchange(mask, predicate != 0).values;
  unsigned bits = 0;
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) bits |= unsigned(values[lane]) << lane;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = emulation::kWarpSize) {
  return emulation::shuffle(mask, value, source, width, true);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = emulation::kWarpSize) {
  const int in_width = emulation::machine.self().rank % width;
  return emulation::shuffle(mask, value, in_width ^ lanes, width, (in_width ^ lanes) < width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = emulation::kWarpSize) {
  const int source = emulation::machine.self().rank % width - int(lanes);
  return emulation::shuffle(mask, value, source, width, source >= 0);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = emulation::kWarpSize) {
  const int source = emulation::machine.self().rank % width + int(lanes);
  return emulation::shuffle(mask, value, source, width, source < width);
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// A launch runs in one thread, so plain reads and writes are atomic.
template <typename T>
T atomicExch(T* p, T value) {
  return std::exchange(*p, value);
}
template <typename T>
T atomicAdd(T* p, T value) {
  return std::exchange(*p, T(*p + value));
}
template <typename T>
T atomicMax(T* p, T value) {
  return std::exchange(*p, std::max(*p, value));
}
template <typename T>
T atomicMin(T* p, T value) {
  return std::exchange(*p, std::min(*p, value));
}
template <typename T>
T atomicOr(T* p, T value) {
  return std::exchange(*p, T(*p | value));
}
template <typename T>
T atomicAnd(T* p, T value) {
  return std::exchange(*p, T(*p & value));
}
template <typename T>
T atomicXor(T* p, T value) {
  return std::exchange(*p, T(*p ^ value));
}
template <typename T>
T atomicCAS(T* p, T expected, T value) {
  const T before = *p;
  if (before == expected) *p = value;
  return before;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
inline unsigned __float_as_uint(float x) {
  return emulation::from_word<unsigned>(emulation::as_word(x));
}
inline float __uint_as_float(unsigned x) {
  return emulation::from_word<float>(emulation::as_word(x));
}
