// Geometry of RoIPool (Fast R-CNN, section 2.1), shared by all devices. Boxes are rounded to whole
// cells, and a bin covers all cells that it touches, so neighbouring bins may share cells. The
// specification is `roi_pool` in mrcnn/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/box.h"

namespace mrcnn {

// Cells beyond this limit are outside of any map; it keeps casts to integers in range.
constexpr int64_t kMaxCell = int64_t(1) << 30;

// NaN becomes the lower limit.
template <typename T>
HOST_DEVICE int64_t to_cell(T position) {
  return position > -T(kMaxCell) ? (position < T(kMaxCell) ? int64_t(position) : kMaxCell)
                                 : -kMaxCell;
}

HOST_DEVICE int64_t clamp_cell(int64_t cell, int64_t cells) {
  return cell < 0 ? 0 : cell > cells ? cells : cell;
}

// One axis of one RoI in feature cells.
template <typename T>
struct PoolAxis {
  int64_t start;
  T bin_size;

  // The cells of a bin, from `begin` to `end`; none if end <= begin.
  HOST_DEVICE int64_t begin(int64_t bin, int64_t cells) const {
    return clamp_cell(int64_t(std::floor(T(bin) * bin_size)) + start, cells);
  }
  HOST_DEVICE int64_t end(int64_t bin, int64_t cells) const {
    return clamp_cell(int64_t(std::ceil(T(bin + 1) * bin_size)) + start, cells);
  }
};

template <typename T>
HOST_DEVICE PoolAxis<T> pool_axis(T low, T high, T scale, int64_t bins) {
  const int64_t start = to_cell(std::round(low * scale)), end = to_cell(std::round(high * scale));
  const int64_t extent = end - start + 1 > 1 ? end - start + 1 : 1;
  return {start, T(extent) / T(bins)};
}

}  // namespace mrcnn
