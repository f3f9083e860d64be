// Shared by the CUDA kernels of all pasted outputs.
#pragma once

#include "common/cuda.cuh"
#include "paste_masks/paste_arguments.h"
#include "paste_masks/paste_masks.h"

namespace mrcnn {

// The masks, their boxes and the image, passed to kernels by value.
struct Pasted {
  const float* masks;  // (D, M, M)
  const float* boxes;  // (D, 4)
  int cells, height, width;
  float threshold;

  __device__ const float* mask(int64_t d) const { return masks + d * cells * cells; }
  // Returns whether a pixel at this coordinate reads the mask.
  __device__ bool reads(float coordinate) const {
    return coordinate >= -1 && coordinate < float(cells);
  }
};

// Interpolates the mask along x at a knot of the y axis.
__device__ __forceinline__ float at_knot(const float* mask, int cells, const PasteTap& column,
                                         int knot) {
  if (knot == 0 || knot > cells) return 0;
  const float* row = mask + int64_t(knot - 1) * cells;  // knot k is cell k - 1
  const float left = column.knot > 0 ? row[column.knot - 1] : 0.0f;
  const float right = column.knot < cells ? row[column.knot] : 0.0f;
  return lerp(left, right, column.fraction);
}

// The values at the knots around one row of a column. Rows are read from top to bottom, so most
// knots are already known.
struct KnotsAround {
  int known = -1;  // the upper knot; all values at knot 0 are zeros
  float above = 0, below = 0;

  __device__ __forceinline__ void move(const float* mask, int cells, const PasteTap& column,
                                       int knot) {
    if (knot == known) return;
    above = knot == known + 1 ? below : at_knot(mask, cells, column, knot);
    below = at_knot(mask, cells, column, knot + 1);
    known = knot;
  }
};

inline Pasted pasted_of(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                        double threshold) {
  STD_TORCH_CHECK(masks.size(1) <= INT32_MAX - 2, "paste_masks: M must be less than 2^31 - 2");
  return {masks.const_data_ptr<float>(),
          boxes.const_data_ptr<float>(),
          int(masks.size(1)),
          int(height),
          int(width),
          float(threshold)};
}

}  // namespace mrcnn
