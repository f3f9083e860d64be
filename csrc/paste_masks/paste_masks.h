// Geometry of pasting the M x M mask of a box into an image, shared by all devices and outputs. The
// specification is `paste_masks` in mrcnn/ops/reference_masks.py.
//
// A pixel centre is at (x + 0.5 - x1) / (x2 - x1) * M - 0.5 in mask cells, as in Detectron2; cells
// outside the mask are 0. Its value is interpolated along x, then along y, always with `lerp`, so
// that dense masks and RLE are bit-identical. That, and monotonicity, need separate rounding: build
// with -ffp-contract=off or -fmad=false.
#pragma once

#include <cstdint>

#include "common/box.h"

namespace mrcnn {

// One axis of a box. All operations below are monotone in the pixel, rounding included.
struct PasteAxis {
  float low, extent;
  int64_t cells;

  HOST_DEVICE float coordinate(int64_t pixel) const {
    return (float(pixel) + 0.5f - low) / extent * float(cells) - 0.5f;
  }
};

// A position between `knot` and `knot` + 1. A mask with a border of zeros has cells + 2 knots per
// axis.
struct PasteTap {
  int32_t knot;
  float fraction;
};

// For coordinates in [-1, cells); at all others, the mask is 0.
HOST_DEVICE PasteTap paste_tap(float coordinate) {
  const int32_t cut = int32_t(coordinate);  // towards zero
  const int32_t cell = cut - (float(cut) > coordinate);
  return {cell + 1, coordinate - float(cell)};
}

// Returns the first pixel whose coordinate is at least the given one, or `pixels`.
HOST_DEVICE int64_t first_pixel(const PasteAxis& axis, float coordinate, int64_t pixels) {
  int64_t low = 0, high = pixels;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (axis.coordinate(middle) < coordinate)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Monotone in `fraction`, rounding included; (1 - fraction) * a + fraction * b is not.
HOST_DEVICE float lerp(float a, float b, float fraction) { return a + fraction * (b - a); }

// Returns the first row after `first` that is not on the same side of the threshold as row `first`;
// row `last` is not. Rows `first` to `last` are between two knots, at fraction(row), so they change
// side once. `rows_per_knot` is only used for a first guess.
template <typename Fraction>
HOST_DEVICE int64_t crossing(int64_t first, int64_t last, bool side, float above, float below,
                             float rows_per_knot, float threshold, const Fraction& fraction) {
  const auto inside = [&](int64_t row) { return lerp(above, below, fraction(row)) >= threshold; };
  // The row at which the line crosses the threshold; NaN becomes the first row.
  const float steps = ((threshold - above) / (below - above) - fraction(first)) * rows_per_knot;
  int64_t row = first + 1;
  if (steps > 0) row = steps < float(last - row) ? row + int64_t(steps) : last;
  // Rounding can make it wrong by a row or two.
  while (row > first + 1 && inside(row - 1) != side) --row;
  while (inside(row) == side) ++row;
  return row;
}

// False for boxes that give empty masks: NaN, infinite (their extent too), or without area.
HOST_DEVICE bool can_paste(const Box<float>& box) {
  const float width = box.x2 - box.x1, height = box.y2 - box.y1;
  return finite(box) && width > 0 && height > 0 && width - width == 0 && height - height == 0;
}

}  // namespace mrcnn
