// Greedy non-maximum suppression on the GPU, used by nms and by the selection ops.
#pragma once

#include <cstdint>

#include "common/cuda.cuh"

namespace mrcnn {

// Runs greedy NMS on segments whose boxes are sorted, best first. A box is kept unless a better
// kept box of its group overlaps it by more than `threshold`, which has the precision of the
// overlaps. At most `max_keep` boxes are kept per segment.
//
//   boxes      (segments, count, 4), contiguous
//   groups     (segments, count), or nullptr: each segment has a single group
//   competes   (segments, count), 0 excludes a box; nullptr: all compete. Boxes with NaN must not.
//   positions  (segments, max_keep): positions of the kept boxes, best first; -1 in padded slots
//   counts     (segments): the number of kept boxes
//
// `count` is less than 2^31. Scratch memory, O(segments * count), is allocated on the device of
// `like`. The host never waits for the device, and launches depend only on `segments` and `count`.
template <typename T>
void suppress_sorted(const OnDevice& device, const Tensor& like, const T* boxes,
                     const int64_t* groups, const uint8_t* competes, int64_t segments,
                     int64_t count, T threshold, int64_t max_keep, int32_t* positions,
                     int32_t* counts);

extern template void suppress_sorted<float>(const OnDevice&, const Tensor&, const float*,
                                            const int64_t*, const uint8_t*, int64_t, int64_t, float,
                                            int64_t, int32_t*, int32_t*);
extern template void suppress_sorted<double>(const OnDevice&, const Tensor&, const double*,
                                             const int64_t*, const uint8_t*, int64_t, int64_t,
                                             double, int64_t, int32_t*, int32_t*);

}  // namespace mrcnn
