// Conversion of large contiguous float32 maps to channels_last, in parallel.
#include "common/channels_last.h"
#include "common/parallel.h"

#define LOOPS "common/channels_last_loops.h"
#include "common/each_isa.h"

namespace mrcnn {

Tensor channels_last_cpu(const Tensor& map) {
  constexpr int64_t kLine = 16, kPixels = 1024, kSmall = 1 << 16;  // values
  const int64_t images = map.size(0), channels = map.size(1);
  const int64_t pixels = map.size(2) * map.size(3);
  if (map.scalar_type() != ScalarType::Float || !map.is_contiguous() || channels % kLine != 0 ||
      pixels == 1 || map.numel() < kSmall)
    return channels_last(map);
  Tensor out = new_tensor(map, {images, channels, map.size(2), map.size(3)}, ScalarType::Float,
                          MemoryFormat::ChannelsLast);
  const float* map_data = map.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  const int64_t parts = (pixels + kPixels - 1) / kPixels;
  parallel_pieces(images * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i / parts * channels * pixels, first = i % parts * kPixels;
      BY_ISA(interleave(map_data + offset, channels, pixels, first,
                        std::min(first + kPixels, pixels), out_data + offset));
    }
  });
  return out;
}

}  // namespace mrcnn
