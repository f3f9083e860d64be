// Ground-truth masks as M x M targets inside boxes (Mask R-CNN, section 3), shared by all devices.
//
// Polygons are drawn as COCO's rleFrPoly draws them, to the bit: corners are rounded to a grid of
// 1/5 pixel, edges to points of that grid. Where an edge passes the centre line of a pixel column
// it toggles the first row whose centre is not above it; a pixel is inside where the toggles of
// its column, down to its own row, are odd in number. Sorting and merging run lengths, as COCO
// does, comes to the same, but edges in this form are independent.
//
// The bits hold only without fused multiply-add: build with -ffp-contract=off or -fmad=false.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/box.h"

namespace mrcnn {

constexpr int64_t kMaxTargetSize = 128;  // the rows of a column fit two 64-bit words

// Corners beyond this many grid units are moved there, so that integers cannot overflow. COCO's
// own integers overflow from twice as far on.
constexpr double kMaxGrid = 1 << 30;

// p -> scale * p + shift takes file pixels to image pixels, axis by axis.
struct AxisTransform {
  double scale, shift;

  HOST_DEVICE double to_image(double p) const { return scale * p + shift; }
  HOST_DEVICE double to_file(double p) const { return (p - shift) / scale; }
};

// One axis of the target inside its box: image pixels to target pixels.
struct TargetAxis {
  double start, ratio;

  HOST_DEVICE double position(double p) const { return (p - start) * ratio; }
};

HOST_DEVICE TargetAxis target_axis(float low, float high, int64_t size) {
  const double extent = double(high) - double(low);
  return {low, size / (extent > 0.1 ? extent : 0.1)};  // 0.1 as in Detectron2
}

// A position in target pixels, rounded to the grid as COCO does. NaN becomes the lower limit.
HOST_DEVICE int64_t grid_point(double position) {
  const double p = 5 * position + 0.5;
  return int64_t(p > -kMaxGrid ? (p < kMaxGrid ? p : kMaxGrid) : -kMaxGrid);
}

// One edge of a ring on the grid, walked from (x, y) in the direction of its longer axis.
struct PolygonEdge {
  int64_t x, y;
  bool wide;                          // |dx| >= |dy|: one boundary point a column, else one a row
  double slope;                       // of the shorter axis over the longer, in [-1, 1]
  int64_t first_column, last_column;  // whose centre lines it passes; none if last < first

  // The shorter axis's coordinate after `step` points. Casts cut towards zero, as COCO's do.
  HOST_DEVICE int64_t across(int64_t step) const {
    return int64_t(double(wide ? y : x) + slope * double(step) + 0.5);
  }
};

HOST_DEVICE PolygonEdge polygon_edge(int64_t x1, int64_t y1, int64_t x2, int64_t y2, int64_t size) {
  const int64_t dx = x2 > x1 ? x2 - x1 : x1 - x2, dy = y2 > y1 ? y2 - y1 : y1 - y2;
  const int64_t left = x1 < x2 ? x1 : x2, right = left + dx;
  PolygonEdge edge;
  // Column c is passed between the grid points 5 c + 2 and 5 c + 3.
  edge.first_column = left <= 2 ? 0 : (left + 2) / 5;
  edge.last_column = right < 3 ? -1 : (right - 3) / 5;
  if (edge.last_column >= size) edge.last_column = size - 1;
  edge.wide = dx >= dy;
  const bool swap = edge.wide ? x1 > x2 : y1 > y2;
  edge.x = swap ? x2 : x1;
  edge.y = swap ? y2 : y1;
  const int64_t end_x = swap ? x1 : x2, end_y = swap ? y1 : y2;
  edge.slope = dx == 0     ? 0
               : edge.wide ? double(end_y - edge.y) / double(dx)
                           : double(end_x - edge.x) / double(dy);
  return edge;
}

// The row that the edge toggles in a column that it passes, from first_column to last_column;
// `size` if that lies below the target.
HOST_DEVICE int64_t toggled_row(const PolygonEdge& edge, int64_t column, int64_t size) {
  const int64_t line = 5 * column + 2;
  int64_t y;  // the upper of the two boundary points beside the line
  if (edge.wide) {
    const int64_t step = line - edge.x;
    const int64_t before = edge.across(step), after = edge.across(step + 1);
    y = before < after ? before : after;
  } else {
    // The first point on the far side. Solving for it, cut to an integer, is never too late.
    const bool rising = edge.slope > 0;
    int64_t step = int64_t((double(line - edge.x) + 0.5) / edge.slope);
    if (step < 1) step = 1;
    while ((edge.across(step) > line) != rising) ++step;
    y = edge.y + step - 1;
  }
  const int64_t row = y < 0 ? 0 : (y + 2) / 5;
  return row < size ? row : size;
}

// Bit i becomes the parity of the bits 0 to i.
HOST_DEVICE uint64_t prefix_xor(uint64_t bits) {
  for (int shift = 1; shift < 64; shift *= 2) bits ^= bits << shift;
  return bits;
}

// Run-length masks are averaged over bins as RoIAlign does. A cover within rounding of one half
// counts as one half, so that exact ties are foreground on every device and for every flip.
HOST_DEVICE bool is_foreground(double cover) { return cover >= 0.5 - 1e-9; }

}  // namespace mrcnn
