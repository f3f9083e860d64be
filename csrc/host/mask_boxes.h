// Tight boxes of a mask inside a window, from its RLE or rings, without drawing it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace mrcnn {

// Half-open rectangle (x1, y1, x2, y2), file pixels.
struct Bounds {
  double x1 = std::numeric_limits<double>::infinity(), y1 = x1, x2 = -x1, y2 = -x1;

  bool empty() const { return !(x1 < x2 && y1 < y2); }
  void add(double x, double y) {
    x1 = std::min(x1, x), x2 = std::max(x2, x);
    y1 = std::min(y1, y), y2 = std::max(y2, y);
  }
  void add(const Bounds& other) {
    if (!other.empty()) add(other.x1, other.y1), add(other.x2, other.y2);
  }
};

inline Bounds intersect(const Bounds& a, const Bounds& b) {
  return {std::max(a.x1, b.x1), std::max(a.y1, b.y1), std::min(a.x2, b.x2), std::min(a.y2, b.y2)};
}

// Bounds of the pixels of all foreground runs. A run consists of at most three rectangles: the rest
// of its first column, whole columns, and the beginning of its last column.
inline Bounds run_bounds(const int32_t* counts, int64_t n, int64_t height, const Bounds& window) {
  Bounds bounds;
  int64_t end = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = end;
    end += counts[i];
    if (i % 2 == 0 || begin == end) continue;
    const int64_t column = begin / height, last = (end - 1) / height;
    const double top = begin % height, bottom = (end - 1) % height + 1, full = height;
    const auto add = [&](double x1, double y1, double x2, double y2) {
      bounds.add(intersect({x1, y1, x2, y2}, window));
    };
    if (column == last) {
      add(column, top, column + 1, bottom);
    } else {
      add(column, top, column + 1, full);
      add(column + 1, 0, last, full);
      add(last, 0, last + 1, bottom);
    }
  }
  return bounds;
}

// Even-odd test of a point with a ray to the right.
inline bool ring_contains(const double* xy, int64_t n, double x, double y) {
  bool inside = false;
  for (int64_t i = 0, j = n - 1; i < n; j = i++) {
    const double xi = xy[2 * i], yi = xy[2 * i + 1], xj = xy[2 * j], yj = xy[2 * j + 1];
    if ((yi > y) != (yj > y) && x < (xj - xi) * ((y - yi) / (yj - yi)) + xi) inside = !inside;
  }
  return inside;
}

// Adds the part of segment a-b that is inside the window (Liang-Barsky).
inline void add_segment(const double* a, const double* b, const Bounds& window, Bounds& bounds) {
  const double low[2] = {window.x1, window.y1}, high[2] = {window.x2, window.y2};
  double enter = 0, leave = 1;
  for (int axis = 0; axis < 2; ++axis) {
    const double delta = b[axis] - a[axis];
    if (delta == 0) {
      if (a[axis] <= low[axis] || a[axis] >= high[axis]) return;
      continue;
    }
    const double to_low = (low[axis] - a[axis]) / delta, to_high = (high[axis] - a[axis]) / delta;
    enter = std::max(enter, std::min(to_low, to_high));
    leave = std::min(leave, std::max(to_low, to_high));
  }
  if (!(enter < leave)) return;
  for (const double t : {enter, leave}) {
    // The exact end point if the segment ends inside, so that an uncut ring keeps its coordinates.
    const double x = t == 1 ? b[0] : a[0] + t * (b[0] - a[0]);
    const double y = t == 1 ? b[1] : a[1] + t * (b[1] - a[1]);
    bounds.add(std::clamp(x, window.x1, window.x2), std::clamp(y, window.y1, window.y2));
  }
}

// Twice the area that a ring encloses; zero for a line.
inline double ring_area(const double* xy, int64_t n) {
  double sum = 0;
  for (int64_t i = 0, j = n - 1; i < n; j = i++)
    sum += (xy[2 * j] - xy[0]) * (xy[2 * i + 1] - xy[1]) -
           (xy[2 * i] - xy[0]) * (xy[2 * j + 1] - xy[1]);
  return sum < 0 ? -sum : sum;
}

// The extreme points of the intersection are ends of edges inside the window, or corners of the
// window inside the ring. Clipping the ring to a polygon instead would leave edges along the border
// of the window that enclose nothing.
inline Bounds ring_bounds(const double* xy, int64_t n, const Bounds& window) {
  Bounds whole;
  for (int64_t i = 0; i < n; ++i) whole.add(xy[2 * i], xy[2 * i + 1]);
  if (whole.x1 >= window.x1 && whole.y1 >= window.y1 && whole.x2 <= window.x2 &&
      whole.y2 <= window.y2)
    return whole;

  Bounds bounds;
  if (intersect(whole, window).empty()) return bounds;
  for (int64_t i = 0, j = n - 1; i < n; j = i++)
    add_segment(xy + 2 * j, xy + 2 * i, window, bounds);
  // Slightly inside the corner, because edges on the border itself count for neither side.
  constexpr double kInset = 1.0 / 4096;
  for (const bool right : {false, true})
    for (const bool below : {false, true})
      if (ring_contains(xy, n, right ? window.x2 - kInset : window.x1 + kInset,
                        below ? window.y2 - kInset : window.y1 + kInset))
        bounds.add(right ? window.x2 : window.x1, below ? window.y2 : window.y1);
  return bounds;
}

}  // namespace mrcnn
