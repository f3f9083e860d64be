// Ground-truth masks as M x M targets inside boxes (Mask R-CNN, section 3), shared by all devices.
// The specification is `mask_targets` in mrcnn/ops/reference_masks.py.
//
// Polygons are drawn exactly as COCO's rleFrPoly draws them. Corners are rounded to a grid of 1/5
// pixel, edges to points of that grid. An edge that passes the centre line of a pixel column
// toggles the first row whose centre is not above it. A pixel is inside if the number of toggles in
// its column, down to its row, is odd. COCO sorts and merges runs instead; the result is the same,
// but in this form edges are independent.
//
// Results are exact only without fused multiply-add: build with -ffp-contract=off or -fmad=false.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/box.h"

namespace mrcnn {

constexpr int64_t kMaxTargetSize = 128;

// Coordinates are limited to this many grid units, so that integers cannot overflow. COCO's
// integers overflow at twice that distance.
constexpr double kMaxGrid = 1 << 30;

// p -> scale * p + shift maps file pixels to image pixels, separately for each axis.
struct AxisTransform {
  double scale, shift;

  HOST_DEVICE double to_image(double p) const { return scale * p + shift; }
  HOST_DEVICE double to_file(double p) const { return (p - shift) / scale; }
};

// Maps image pixels to target pixels along one axis of a box.
struct TargetAxis {
  double start, ratio;

  HOST_DEVICE double position(double p) const { return (p - start) * ratio; }
};

HOST_DEVICE TargetAxis target_axis(float low, float high, int64_t size) {
  const double extent = double(high) - double(low);
  return {low, size / (extent > 0.1 ? extent : 0.1)};  // 0.1 as in Detectron2
}

// Rounds a position in target pixels to the grid as COCO does. NaN becomes the lower limit.
HOST_DEVICE int32_t grid_point(double position) {
  const double p = 5 * position + 0.5;
  return int32_t(p > -kMaxGrid ? (p < kMaxGrid ? p : kMaxGrid) : -kMaxGrid);
}

// The first and the last column whose centre line an edge from `left` to `right` passes; none if
// last < first. The centre line of column c is between the grid points 5 c + 2 and 5 c + 3.
HOST_DEVICE int32_t first_column(int32_t left) { return left <= 2 ? 0 : (left + 2) / 5; }
HOST_DEVICE int32_t last_column(int32_t right, int32_t size) {
  const int32_t last = right < 3 ? -1 : (right - 3) / 5;
  return last < size ? last : size - 1;
}

// Returns whether the longer axis of an edge is x.
HOST_DEVICE bool is_wide(double x1, double y1, double x2, double y2) {
  return std::fabs(x2 - x1) >= std::fabs(y2 - y1);
}

// The slope along the longer axis, in [-1, 1], the same for both directions of the edge; NaN for an
// edge without length, which passes no column.
HOST_DEVICE double edge_slope(double x1, double y1, double x2, double y2) {
  const double dx = x2 - x1, dy = y2 - y1;
  const bool wide = is_wide(x1, y1, x2, y2);
  return (wide ? dy : dx) / (wide ? dx : dy);
}

// One edge of a ring on the grid, starting at (x, y) and ascending along its longer axis. After
// `step` grid units along that axis, the other coordinate is start + slope * step + 0.5, cut
// towards zero as in COCO. The doubles hold integers.
struct PolygonEdge {
  double x, y;
  bool wide;  // |dx| >= |dy|: one point per grid column, otherwise one per grid row
  double slope;
};

HOST_DEVICE PolygonEdge polygon_edge(double x1, double y1, double x2, double y2, double slope) {
  const bool wide = is_wide(x1, y1, x2, y2), swap = wide ? x1 > x2 : y1 > y2;
  return {swap ? x2 : x1, swap ? y2 : y1, wide, slope};
}

// Cuts a coordinate towards zero to the grid.
HOST_DEVICE double cut(double p) { return std::trunc(p); }

// The shorter axis's coordinate after `step` points.
HOST_DEVICE double across(const PolygonEdge& edge, double step) {
  return cut((edge.wide ? edge.y : edge.x) + edge.slope * step + 0.5);
}

// The upper of the two edge points on both sides of a column's centre line. `line` is the last grid
// column before it.
HOST_DEVICE double upper_point(const PolygonEdge& edge, double line) {
  if (edge.wide) {
    const double before = across(edge, line - edge.x), after = across(edge, line - edge.x + 1);
    return before < after ? before : after;
  }
  // The point before the first one on the far side. Solving for that step and cutting it to an
  // integer never goes too far.
  const double solved = (line - edge.x + 0.5) / edge.slope;
  double step = cut(solved < INT32_MAX ? solved : INT32_MAX);
  if (!(step > 1)) step = 1;
  while (edge.slope > 0 ? across(edge, step) <= line : across(edge, step) > line) ++step;
  return edge.y + step - 1;
}

// The row that an edge toggles in a column that it passes, or `size` if it is below the target.
HOST_DEVICE int32_t toggled_row(const PolygonEdge& edge, int32_t column, int32_t size) {
  const double below = upper_point(edge, 5.0 * column + 2.0) + 2, end = 5.0 * size + 2;
  // The first row whose centre is not above the point. The float 0.2 is rounded up, so multiples of
  // 5 are not rounded down.
  return int32_t((below > 0 ? (below < end ? below : end) : 0) * 0.2);
}

// Bit i becomes the parity of the bits 0 to i.
HOST_DEVICE uint32_t prefix_xor(uint32_t bits) {
  for (int shift = 1; shift < 32; shift *= 2) bits ^= bits << shift;
  return bits;
}

// The threshold for averages of RLE masks. A coverage within rounding of one half counts as one
// half, so that exact ties are foreground on every device and for every flip.
HOST_DEVICE bool is_foreground(double coverage) { return coverage >= 0.5 - 1e-9; }

}  // namespace mrcnn
