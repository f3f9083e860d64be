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

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MRCNN_X86_LOOPS
// GCC 12 takes the deliberately undefined operands inside of this header for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace mrcnn::baseline {
#define VEC_BYTES 16
#include "common/vec.h"
#include LOOPS
#undef VEC_BYTES
}  // namespace mrcnn::baseline

#ifdef MRCNN_X86_LOOPS
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
namespace mrcnn::avx2 {
#define VEC_BYTES 32
#include "common/vec.h"
#include LOOPS
#undef VEC_BYTES
}  // namespace mrcnn::avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target( \
    "avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
namespace mrcnn::avx512 {
#define VEC_BYTES 64
#include "common/vec.h"
#include LOOPS
#undef VEC_BYTES
}  // namespace mrcnn::avx512
#pragma GCC pop_options

#define BY_ISA(call)                                              \
  (::mrcnn::kIsa == ::mrcnn::Isa::kAvx512 ? ::mrcnn::avx512::call \
   : ::mrcnn::kIsa == ::mrcnn::Isa::kAvx2 ? ::mrcnn::avx2::call   \
                                          : ::mrcnn::baseline::call)
#else
#define BY_ISA(call) (::mrcnn::baseline::call)
#endif

#undef LOOPS
