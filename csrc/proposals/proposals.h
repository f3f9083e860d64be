// Anchors from their index, shared by all devices.
#pragma once

#include <cstdint>

#include "common/box.h"

namespace mrcnn {

// Anchor `index` of a level, index = (y * width + x) * anchors + a: cell anchor `a` moved to the
// corner of cell (y, x).
template <typename T>
HOST_DEVICE Box<T> anchor_at(int64_t index, int64_t width, int64_t anchors, T stride,
                             const T* cell_anchors) {
  const T* cell = cell_anchors + index % anchors * 4;
  const int64_t position = index / anchors;
  const T x = T(position % width) * stride, y = T(position / width) * stride;
  return {cell[0] + x, cell[1] + y, cell[2] + x, cell[3] + y};
}

}  // namespace mrcnn
