// Conversion of an image's bytes to network pixels, in one pass over the image.
#pragma once

#include <array>
#include <cstdint>

namespace mrcnn {

// (height, width, 3) uint8, strides in bytes and of any sign.
struct ImageView {
  const uint8_t* data;
  int64_t height, width;
  int64_t row_stride, pixel_stride, channel_stride;
};

// (height, width, 3) float32; the channels of a pixel and the pixels of a row are contiguous.
struct PixelSlot {
  float* data;
  int64_t height, width;
  int64_t row_stride;  // values
};

enum class ResizeFilter { kPillow, kOpencv, kFloat };

// Mean and standard deviation of the channels, repeated for vectors of any width, three at a time.
struct ChannelScale {
  static constexpr int64_t kValues = 48;

  ChannelScale(const std::array<float, 3>& channel_mean, const std::array<float, 3>& channel_std) {
    for (int64_t i = 0; i < kValues; ++i)
      mean[i] = channel_mean[i % 3], std[i] = channel_std[i % 3];
  }

  float mean[kValues], std[kValues];
};

constexpr int64_t kMaxSide = int64_t{1} << 27;  // so that the bytes of a row cannot overflow

// Resizes the image to the slot, mirrors it, and writes (value - mean) / std. All sides must lie in
// [1, kMaxSide].
void write_pixels(const ImageView& image, ResizeFilter filter, bool mirror_x, bool mirror_y,
                  const ChannelScale& scale, const PixelSlot& out);

}  // namespace mrcnn
