// Greedy non-maximum suppression on the GPU, used by nms and by the selection ops.
#pragma once

#include <cstdint>

#include "common/cuda.cuh"

namespace mrcnn {

// Greedy NMS of segments whose boxes already stand best first: a box is kept unless a kept one
// before it, of its group, overlaps it by more than `threshold`, which has the precision of the
// overlaps. At most `max_keep` are kept in a segment.
//
// boxes (segments, count, 4), contiguous
// groups (segments, count), or nullptr: all boxes of a segment are of one group
// competes (segments, count), or nullptr: all do; a box with 0 takes no part. One with NaN must
// not. positions (segments, max_keep): of the kept ones, below `count`, best first; -1 in padded
// slots counts (segments): how many are kept
//
// `count` is less than 2^31. Scratch memory, of O(segments * count), lies on the device of `like`.
// Nothing waits for the device, and the launches depend on segments and count only.
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
