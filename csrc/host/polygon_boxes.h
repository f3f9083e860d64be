// Boxes of polygons: those of their outlines, where these are close to the pixels that they cover.
#pragma once

#include <cmath>
#include <cstdint>

#include "host/polygon_bits.h"

namespace mrcnn {

// A side of an outline that is farther from the pixels inside it than this many pixels, and this
// fraction of the outline, is the end of a spike.
constexpr double kSpike = 2, kSpikeFraction = 0.1;
constexpr double kColumns = 24;  // that are usually enough to see that there is none

class PolygonBoxes {
 public:
  // Returns the box of the part of a mask inside `window`. A ring that covers no pixel counts only
  // if none of the others does, and then only if it encloses an area.
  Bounds box(const double* xy, const int64_t* ring_start, int64_t rings, int64_t height,
             int64_t width, const Bounds& window) {
    Bounds covered, outlines;
    bool has_pixels = false;
    for (int64_t q = 0; q < rings; ++q) {
      const double* ring = xy + 2 * ring_start[q];
      const int64_t n = ring_start[q + 1] - ring_start[q];
      const Bounds limits = without_spikes(ring, n, int32_t(height), int32_t(width));
      if (!limits.empty()) {
        has_pixels = true;
        covered.add(intersect(ring_bounds(ring, n, window), limits));
      } else if (!has_pixels && ring_area(ring, n) > 1e-6) {
        outlines.add(ring_bounds(ring, n, window));
      }
    }
    return has_pixels ? covered : outlines;
  }

 private:
  // Returns the box of an outline, with the sides of its pixels where it has spikes; empty if it
  // covers no pixel.
  Bounds without_spikes(const double* xy, int64_t n, int32_t height, int32_t width) {
    Bounds outline;
    for (int64_t i = 0; i < n; ++i) outline.add(xy[2 * i], xy[2 * i + 1]);
    // The image cuts the outline, not a spike.
    const Bounds seen = intersect(outline, {0, 0, double(width), double(height)});
    if (!(seen.x1 <= seen.x2 && seen.y1 <= seen.y2)) return {};
    const double x = std::max(kSpike, kSpikeFraction * (seen.x2 - seen.x1));
    const double y = std::max(kSpike, kSpikeFraction * (seen.y2 - seen.y1));
    Bounds pixels;
    const auto is_near = [&] {
      return std::fabs(seen.x1 - pixels.x1) <= x && std::fabs(seen.x2 - pixels.x2) <= x &&
             std::fabs(seen.y1 - pixels.y1) <= y && std::fabs(seen.y2 - pixels.y2) <= y;
    };
    const int32_t step = std::max(1, int32_t((seen.x2 - seen.x1) / kColumns));
    bits_.draw(xy, n, height, width, step);
    pixels = bits_.bounds();
    if (is_near()) return outline;
    if (step > 1) bits_.draw(xy, n, height, width), pixels = bits_.bounds();
    if (pixels.empty()) return pixels;
    const auto side = [](double outline, double pixel, double most) {
      return std::fabs(outline - pixel) > most ? pixel : outline;
    };
    return {side(seen.x1, pixels.x1, x), side(seen.y1, pixels.y1, y), side(seen.x2, pixels.x2, x),
            side(seen.y2, pixels.y2, y)};
  }

  PolygonBits bits_;
};

}  // namespace mrcnn
