// Anchors from their index, and argument checks of select_proposals, the same on all devices. The
// specification is `select_proposals` in mrcnn/ops/reference.py.
#pragma once

#include <cstdint>

#include "common/box.h"
#include "common/tensor.h"

namespace mrcnn {

// Anchor `index` of a level, index = (y * width + x) * anchors + a: cell anchor `a` moved to the
// corner of cell (y, x).
template <typename T>
HOST_DEVICE Box<T> anchor_at(int64_t index, int64_t width, int64_t anchors, T step_y, T step_x,
                             const T* cell_anchors) {
  const T* cell = cell_anchors + index % anchors * 4;
  const int64_t position = index / anchors;
  const T x = T(position % width) * step_x, y = T(position / width) * step_y;
  return {cell[0] + x, cell[1] + y, cell[2] + x, cell[3] + y};
}

inline void check_proposals(const std::vector<Tensor>& logits, const std::vector<Tensor>& deltas,
                            const Tensor& cell_anchors, const std::vector<int64_t>& strides,
                            const Tensor& sizes, int64_t pre_nms_top_k, int64_t post_nms_top_k) {
  const int64_t levels = int64_t(logits.size());
  STD_TORCH_CHECK(
      levels > 0 && int64_t(deltas.size()) == levels && int64_t(strides.size()) == 2 * levels,
      "select_proposals: logits and deltas must have one entry a level, strides two");
  check_shape(logits[0], {-1, -1, -1, -1}, "select_proposals: logits (N, A, H, W)");
  const int64_t images = logits[0].size(0), anchors = logits[0].size(1);
  for (int64_t l = 0; l < levels; ++l) {
    check_shape(logits[l], {images, anchors, -1, -1}, "select_proposals: logits (N, A, H, W)");
    check_shape(deltas[l], {images, 4 * anchors, logits[l].size(2), logits[l].size(3)},
                "select_proposals: deltas (N, 4 A, H, W)");
  }
  check_shape(cell_anchors, {levels, anchors, 4}, "select_proposals: cell_anchors (L, A, 4)");
  check_shape(sizes, {images, 2}, "select_proposals: sizes (N, 2)");
  STD_TORCH_CHECK(pre_nms_top_k >= 0 && post_nms_top_k >= 0,
                  "select_proposals: pre_nms_top_k and post_nms_top_k must be at least 0, got ",
                  pre_nms_top_k, " and ", post_nms_top_k);
}

}  // namespace mrcnn
