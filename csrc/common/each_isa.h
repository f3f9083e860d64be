// Compiles the file named by LOOPS once for each set of vector instructions, in a namespace of its
// own; BY_ISA calls the version that fits the machine. The loops see `Vec` of common/vec.h in the
// width of their set, and are ordinary C++ otherwise.
//
//   #define LOOPS "roi_align/roi_align_loops.h"
//   #include "common/each_isa.h"
//   ...
//   BY_ISA(pool(map, out));
//
// Headers that LOOPS needs are included before, outside of the namespaces. No include guard: every
// kernel has loops of its own.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/isa.h"
#include "torch/headeronly/util/BFloat16.h"
#include "torch/headeronly/util/Half.h"

#if defined(__x86_64__) && defined(__GNUC__)  // GCC, and clang in its manner
#define MRCNN_X86_LOOPS
#ifndef __clang__
// GCC 12 takes the deliberately undefined operands inside this header for mistakes.
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
