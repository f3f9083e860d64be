// Decoded image to network pixels in one pass: crop, resize, mirror, normalise and pad.
#include "host/write_pixels.h"

#include <cstring>
#include <vector>

#include "host/resize_taps.h"

#define LOOPS "host/write_pixels_loops.h"
#include "common/each_isa.h"

namespace mrcnn {
namespace {

// Loops access whole vectors, three at a time, and read one value past the last pixel of a row.
constexpr int64_t padded(int64_t values) {
  return (values / ChannelScale::kValues + 2) * ChannelScale::kValues;
}

// The last `count` rows that were requested; holds `count` neighbours at once.
template <typename T>
class RowCache {
 public:
  RowCache(int64_t count, int64_t values)
      : stride_(padded(values)), rows_(count * stride_), held_(count, -1) {}

  // Returns row y; calls `make(y, row)` if it is not cached.
  template <typename Make>
  const T* get(int64_t y, const Make& make) {
    const int64_t slot = y % int64_t(held_.size());
    T* row = rows_.data() + slot * stride_;
    if (held_[slot] != y) make(y, row);
    held_[slot] = y;
    return row;
  }

 private:
  int64_t stride_;
  std::vector<T> rows_;
  std::vector<int64_t> held_;
};

// Copies rows of an image to contiguous memory with padding behind.
class SourceRows {
 public:
  explicit SourceRows(const ImageView& image) : image_(image), row_(padded(3 * image.width)) {}

  const uint8_t* read(int64_t y) {
    const uint8_t* from = image_.data + y * image_.row_stride;
    if (image_.pixel_stride == 3 && image_.channel_stride == 1) {
      std::memcpy(row_.data(), from, 3 * image_.width);
    } else {
      for (int64_t x = 0; x < image_.width; ++x)
        for (int64_t c = 0; c < 3; ++c)
          row_[3 * x + c] = from[x * image_.pixel_stride + c * image_.channel_stride];
    }
    return row_.data();
  }

 private:
  const ImageView& image_;
  std::vector<uint8_t> row_;
};

WideTaps mirrored(WideTaps taps) {
  std::reverse(taps.first.begin(), taps.first.end());
  const auto first = taps.weights.begin();
  std::vector<int32_t> weights;
  weights.reserve(taps.weights.size());
  for (auto end = taps.weights.end(); end != first; end -= taps.count)
    weights.insert(weights.end(), end - taps.count, end);
  taps.weights = std::move(weights);
  return taps;
}

template <typename Weight>
PairTaps<Weight> mirrored(PairTaps<Weight> taps) {
  std::reverse(taps.left.begin(), taps.left.end());
  std::reverse(taps.right.begin(), taps.right.end());
  std::reverse(taps.left_weight.begin(), taps.left_weight.end());
  std::reverse(taps.right_weight.begin(), taps.right_weight.end());
  return taps;
}

void write_wide(const ImageView& image, const WideTaps& across, const WideTaps& down, bool as_wide,
                const ChannelScale& scale, const PixelSlot& out) {
  SourceRows source(image);
  RowCache<uint8_t> stretched(down.count, 3 * out.width);
  std::vector<const uint8_t*> rows(down.count);
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t k = 0; k < down.count; ++k)
      rows[k] = stretched.get(down.first[y] + k, [&](int64_t at, uint8_t* row) {
        if (as_wide)
          std::memcpy(row, source.read(at), 3 * image.width);
        else
          BY_ISA(stretch_row(source.read(at), across, row));
      });
    BY_ISA(blend_rows(rows.data(), &down.weights[y * down.count], down.count, scale, 3 * out.width,
                      out.data + y * out.row_stride));
  }
}

void write_fixed(const ImageView& image, const PairTaps<int32_t>& across,
                 const PairTaps<int32_t>& down, const ChannelScale& scale, const PixelSlot& out) {
  SourceRows source(image);
  RowCache<int16_t> stretched(2, 3 * out.width);
  const auto stretch = [&](int64_t at, int16_t* row) {
    BY_ISA(stretch_row(source.read(at), across, row));
  };
  for (int64_t y = 0; y < out.height; ++y) {
    const int16_t* top = stretched.get(down.left[y], stretch);
    const int16_t* bottom = stretched.get(down.right[y], stretch);
    BY_ISA(blend_rows(top, bottom, int16_t(down.left_weight[y]), int16_t(down.right_weight[y]),
                      scale, 3 * out.width, out.data + y * out.row_stride));
  }
}

void write_float(const ImageView& image, const PairTaps<float>& across, const PairTaps<float>& down,
                 const ChannelScale& scale, const PixelSlot& out) {
  SourceRows source(image);
  std::vector<float> normalised(padded(3 * image.width));
  RowCache<float> stretched(2, 3 * out.width);
  const auto stretch = [&](int64_t at, float* row) {
    BY_ISA(normalise_row(source.read(at), scale, 3 * image.width, normalised.data()));
    BY_ISA(stretch_row(normalised.data(), across, row));
  };
  for (int64_t y = 0; y < out.height; ++y) {
    const float* top = stretched.get(down.left[y], stretch);
    const float* bottom = stretched.get(down.right[y], stretch);
    BY_ISA(blend_rows(top, bottom, down.left_weight[y], down.right_weight[y], 3 * out.width,
                      out.data + y * out.row_stride));
  }
}

}  // namespace

void write_pixels(const ImageView& image, ResizeFilter filter, bool mirror_x, bool mirror_y,
                  const ChannelScale& scale, const PixelSlot& out) {
  const auto write = [&](const auto& taps, const auto& with) {
    const auto across = taps(image.width, out.width), down = taps(image.height, out.height);
    with(mirror_x ? mirrored(across) : across, mirror_y ? mirrored(down) : down);
  };
  // All filters keep an image that already has the right size; the one with a single tap is
  // fastest.
  const bool same_size = image.height == out.height && image.width == out.width;
  switch (same_size ? ResizeFilter::kPillow : filter) {
    case ResizeFilter::kPillow:
      return write(wide_taps, [&](const WideTaps& across, const WideTaps& down) {
        write_wide(image, across, down, image.width == out.width && !mirror_x, scale, out);
      });
    case ResizeFilter::kOpencv:
      return write(fixed_taps, [&](const auto& across, const auto& down) {
        write_fixed(image, across, down, scale, out);
      });
    case ResizeFilter::kFloat:
      return write(float_taps, [&](const auto& across, const auto& down) {
        write_float(image, across, down, scale, out);
      });
  }
}

}  // namespace mrcnn
