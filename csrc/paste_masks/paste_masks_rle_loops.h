// Loop over the columns of a mask that is pasted as RLE. Included by common/each_isa.h.
#include "paste_masks/paste_masks_loops.h"

// Appends the offsets, counted down the columns, at which inside and outside swap.
inline void find_changes(const MaskSegments& segments, const PasteSpan& columns, float threshold,
                         int64_t height, std::vector<int32_t>& changes) {
  int64_t count = 0;
  const int64_t stride = segments.stride;
  const auto change = [&](int64_t offset) {
    // Two swaps at one offset, at the end of a column and the start of the next, cancel each other.
    if (count > 0 && changes[count - 1] == offset)
      --count;
    else
      changes[count++] = int32_t(offset);
  };
  for (int64_t i = 0; i < columns.size(); ++i) {
    if (int64_t(changes.size()) < count + 2 * stride) changes.resize(2 * count + 2 * stride);
    const int64_t left = columns.knots[i] * stride, top = (columns.begin + i) * height;
    const float fraction = columns.fractions[i];
    const float* above = segments.above.data() + left;
    const float* below = segments.below.data() + left;
    const auto at_column = [&](const float* knots, int64_t s) {
      return lerp(load(knots + s), load(knots + stride + s), fraction);
    };
    uint64_t inside = 0;  // whether the last pixel of the previous segment is inside
    for (int64_t word = 0; word < stride; word += MaskSegments::kWord) {
      // Bit s is set if the first (last) pixel of segment word + s is inside.
      uint64_t first = 0, last = 0;
      for (int64_t s = 0; s < MaskSegments::kWord; s += kLanes<float>) {
        const FloatVec a = at_column(above, word + s), b = at_column(below, word + s);
        first |= reached(lerp(a, b, load(&segments.first_fraction[word + s])), threshold) << s;
        last |= reached(lerp(a, b, load(&segments.last_fraction[word + s])), threshold) << s;
      }
      const uint64_t at_start = first ^ uint32_t(last << 1 | inside), within = first ^ last;
      inside = last >> (MaskSegments::kWord - 1);
      for (uint64_t bits = at_start | within; bits; bits &= bits - 1) {
        const int64_t bit = __builtin_ctzll(bits), s = word + bit;
        if (at_start >> bit & 1) change(top + segments.begin[s]);
        if (within >> bit & 1)
          change(top + segments.crossing(s, first >> bit & 1,
                                         lerp(above[s], above[stride + s], fraction),
                                         lerp(below[s], below[stride + s], fraction), threshold));
      }
    }
  }
  changes.resize(count);
}
