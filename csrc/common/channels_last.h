// Contiguous maps into channels_last, on the host.
#pragma once

#include "common/tensor.h"

namespace mrcnn {

// As `channels_last`, but three times as fast for large contiguous float32 maps.
Tensor channels_last_cpu(const Tensor& map);

}  // namespace mrcnn
