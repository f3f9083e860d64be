// Compiles the file named by LOOPS once per vector instruction set, each time in a separate
// namespace; BY_ISA calls the version for this machine. The loops use `Vec` of common/vec.h in the
// width of their instruction set, and are ordinary C++ otherwise.
//
//   #define LOOPS "roi_align/roi_align_loops.h"
//   #include "common/each_isa.h"
//   ...
//   BY_ISA(pool(map, out));
//
// Include the headers that LOOPS needs before this file, outside of the namespaces. There is no
// include guard, because each kernel has its own loops.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/isa.h"
#include "torch/headeronly/util/BFloat16.h"
#include "torch/headeronly/util/Half.h"

#if defined(__x86_64__) && defined(__GNUC__)  // GCC or clang
#define MRCNN_X86_LOOPS
#ifndef __clang__
// GCC 12 warns of deliberately undefined operands in this header.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#ifndef __clang__
#pragma GCC diagnostic pop
#endif
#endif

namespace mrcnn::baseline {
#define VEC_BYTES 16
#include "common/vec.h"
#include LOOPS
#undef VEC_BYTES
}  // namespace mrcnn::baseline

// The two compilers spell "compile the functions up to here for these instructions" differently.
#ifdef MRCNN_X86_LOOPS
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif
namespace mrcnn::avx2 {
#define VEC_BYTES 32
#include "common/vec.h"
#include LOOPS
#undef VEC_BYTES
}  // namespace mrcnn::avx2
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(                                                               \
    __attribute__((                                                                         \
        target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target( \
    "avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
namespace mrcnn::avx512 {
#define VEC_BYTES 64
#include "common/vec.h"
#include LOOPS
#undef VEC_BYTES
}  // namespace mrcnn::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define BY_ISA(call)                                              \
  (::mrcnn::kIsa == ::mrcnn::Isa::kAvx512 ? ::mrcnn::avx512::call \
   : ::mrcnn::kIsa == ::mrcnn::Isa::kAvx2 ? ::mrcnn::avx2::call   \
                                          : ::mrcnn::baseline::call)
#else
#define BY_ISA(call) (::mrcnn::baseline::call)
#endif

#undef LOOPS
