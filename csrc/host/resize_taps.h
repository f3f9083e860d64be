// The cells of an axis, and their weights, that make up each pixel of the resized axis.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace mrcnn {

// Pixel x is the sum of cells first[x] + k times weights[x * count + k], for k < count. `count` is
// the same for all pixels: cells that a pixel does not use have weight 0. All cells are in the
// image.
struct WideTaps {
  int64_t count;
  std::vector<int64_t> first;
  // In units of 2^-kWideBits. Rounding at most doubles a weight, so that 255 times all weights of a
  // pixel, and half for rounding, stay below 2^31.
  std::vector<int32_t> weights;
};

constexpr int kWideBits = 22;

// Pillow's BILINEAR with 8 bits per channel: a triangle around the pixel's centre, two pixels of
// the result wide, but at least two cells. The weights sum to 1 before they are rounded.
inline WideTaps wide_taps(int64_t cells, int64_t pixels) {
  if (cells == pixels) {
    WideTaps taps{1, std::vector<int64_t>(pixels), std::vector<int32_t>(pixels, 1 << kWideBits)};
    for (int64_t x = 0; x < pixels; ++x) taps.first[x] = x;
    return taps;
  }
  const double scale = double(cells) / pixels, reach = std::max(scale, 1.0), steepness = 1 / reach;
  const auto center = [=](int64_t x) { return (x + 0.5) * scale; };
  const auto low = [=](int64_t x) {
    return std::max(int64_t(center(x) - reach + 0.5), int64_t{0});
  };
  const auto high = [=](int64_t x) { return std::min(int64_t(center(x) + reach + 0.5), cells); };

  WideTaps taps{0, std::vector<int64_t>(pixels), {}};
  for (int64_t x = 0; x < pixels; ++x) taps.count = std::max(taps.count, high(x) - low(x));
  taps.weights.resize(pixels * taps.count);
  std::vector<double> weights(taps.count);
  for (int64_t x = 0; x < pixels; ++x) {
    const int64_t begin = low(x), own = high(x) - begin;
    double sum = 0;
    for (int64_t k = 0; k < own; ++k) {
      const double distance = std::abs((k + begin - center(x) + 0.5) * steepness);
      weights[k] = distance < 1 ? 1 - distance : 0;
      sum += weights[k];
    }
    taps.first[x] = std::min(begin, cells - taps.count);
    int32_t* out = &taps.weights[x * taps.count + begin - taps.first[x]];
    for (int64_t k = 0; k < own; ++k) out[k] = int32_t(0.5 + weights[k] / sum * (1 << kWideBits));
  }
  return taps;
}

// Pixel x is cell left[x] times left_weight[x] plus cell right[x] times right_weight[x]. Beyond the
// ends of the axis, its outermost cells are repeated.
template <typename Weight>
struct PairTaps {
  explicit PairTaps(int64_t pixels)
      : left(pixels), right(pixels), left_weight(pixels), right_weight(pixels) {}

  std::vector<int64_t> left, right;
  std::vector<Weight> left_weight, right_weight;
};

// OpenCV's INTER_LINEAR with 8 bits per channel: weights in units of 2^-11.
inline PairTaps<int32_t> fixed_taps(int64_t cells, int64_t pixels) {
  PairTaps<int32_t> taps(pixels);
  const double scale = 1 / (double(pixels) / cells);
  for (int64_t x = 0; x < pixels; ++x) {
    const float at = float((x + 0.5) * scale - 0.5), low = std::floor(at);
    taps.left[x] = std::clamp(int64_t(low), int64_t{0}, cells - 1);
    taps.right[x] = std::clamp(int64_t(low) + 1, int64_t{0}, cells - 1);
    taps.left_weight[x] = int32_t(std::rint((1 - (at - low)) * 2048));
    taps.right_weight[x] = int32_t(std::rint((at - low) * 2048));
  }
  return taps;
}

// PyTorch's bilinear `interpolate` without aligned corners and antialiasing. On machines with fused
// multiply-add, PyTorch also rounds a position once.
inline PairTaps<float> float_taps(int64_t cells, int64_t pixels) {
  PairTaps<float> taps(pixels);
  const float scale = float(cells) / float(pixels);
  for (int64_t x = 0; x < pixels; ++x) {
    const float at = std::max(std::fma(scale, float(x) + 0.5f, -0.5f), 0.0f);
    const int64_t low = std::min(int64_t(at), cells - 1);
    taps.left[x] = low;
    taps.right[x] = std::min(low + 1, cells - 1);
    taps.right_weight[x] = std::clamp(at - float(low), 0.0f, 1.0f);
    taps.left_weight[x] = 1 - taps.right_weight[x];
  }
  return taps;
}

}  // namespace mrcnn
