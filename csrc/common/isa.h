// Which vector instructions the loops of the kernels use, chosen once when the library is loaded.
#pragma once

namespace mrcnn {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best set that this machine has. The environment variable MRCNN_ISA (baseline, avx2, avx512)
// lowers it, so that tests reach every path.
extern const Isa kIsa;

const char* isa_name();

}  // namespace mrcnn
