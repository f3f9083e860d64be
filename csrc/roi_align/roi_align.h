// Geometry of RoIAlign (Mask R-CNN, section 3), shared by all devices. The specification is
// `roi_align` in mrcnn/ops/reference.py.
//
// The average over a bin's samples is separable: a sample at (y, x) gives its four cells the
// weights wy * wx. So, per axis, the samples of a bin merge into a short list of (cell, weight)
// taps.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/box.h"

namespace mrcnn {

// Limits the work for a box that is far larger than any image.
constexpr int64_t kMaxSamplesPerBin = 1024;

// One axis of one RoI in feature cells.
template <typename T>
struct RoiAxis {
  T start, bin_size;
  int64_t samples;  // per bin

  // Position of a sample, before clamping to the map.
  HOST_DEVICE T position(int64_t bin, int64_t sample) const {
    return start + bin * bin_size + (sample + T(0.5)) * bin_size / samples;
  }
};

template <typename T>
HOST_DEVICE RoiAxis<T> roi_axis(T low, T high, T scale, int64_t bins, int64_t sampling_ratio,
                                bool aligned) {
  const T offset = aligned ? T(0.5) : T(0);
  const T start = low * scale - offset;
  T extent = high * scale - offset - start;
  if (!aligned && extent < 1) extent = 1;  // legacy: RoIs are at least one cell wide
  const T bin_size = extent / bins;
  int64_t samples = sampling_ratio;
  if (samples <= 0) {
    const T adaptive = std::ceil(bin_size);
    // An empty RoI has no samples and pools to zero.
    samples = adaptive >= kMaxSamplesPerBin ? kMaxSamplesPerBin
              : adaptive > 0                ? int64_t(adaptive)
                                            : 0;
  }
  return {start, bin_size, samples};
}

// Linear interpolation at one position: cells low and low + 1 (or only low at the border), with
// integers of type `I`.
template <typename T, typename I = int64_t>
struct LinearTap {
  I low, high;
  T weight_low, weight_high;
};

// Returns false if a sample counts as zero: more than one cell outside the map, NaN, or an empty
// map.
template <typename T, typename I>
HOST_DEVICE bool linear_tap(T position, I cells, LinearTap<T, I>& tap) {
  if (!(position >= -1 && position <= T(cells)) || cells == 0) return false;
  if (position < 0) position = 0;
  tap.low = I(position);
  if (tap.low >= cells - 1) {
    tap.low = tap.high = cells - 1;
    tap.weight_low = 1;
    tap.weight_high = 0;
  } else {
    tap.high = tap.low + 1;
    tap.weight_high = position - tap.low;
    tap.weight_low = 1 - tap.weight_high;
  }
  return true;
}

// The pyramid level of a box: canonical_level + log2(sqrt(area) / canonical_size), rounded down and
// limited to the existing levels (FPN, equation 1). It is compared with powers of two, because log2
// can differ between devices.
template <typename T>
HOST_DEVICE int64_t roi_level(const Box<T>& box, T canonical_size, int64_t canonical_level,
                              int64_t levels) {
  const T relative_size = std::sqrt(area(box)) / canonical_size + T(1e-8);
  int64_t level = 0;
  while (level + 1 < levels && relative_size >= std::ldexp(T(1), int(level + 1 - canonical_level)))
    ++level;
  return level;
}

}  // namespace mrcnn
