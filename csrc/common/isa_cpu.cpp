// Choice of the vector instruction set, once, when a library is loaded.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "common/isa.h"

namespace mrcnn {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best_isa() {
#ifdef __x86_64__
  __builtin_cpu_init();
  unsigned eax, ebx, ecx, edx;  // clang's __builtin_cpu_supports does not know F16C
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

Isa choose_isa() {
  const Isa best = best_isa();
  const char* requested = std::getenv("MRCNN_ISA");
  for (int i = 0; requested && i < 3; ++i)
    if (std::strcmp(requested, kNames[i]) == 0) return std::min(Isa(i), best);
  return best;
}

}  // namespace

const Isa kIsa = choose_isa();

const char* isa_name() { return kNames[int(kIsa)]; }

}  // namespace mrcnn
