// Loops over the pixels of pasted outputs. Included by common/each_isa.h.

using ::mrcnn::lerp;

template <typename F>
inline FloatVec lerp(const FloatVec& a, const FloatVec& b, const F& fraction) {
  return a + fraction * (b - a);
}

// Returns a word whose bit i is set if lane i is at least the threshold.
inline uint64_t reached(const FloatVec& value, float threshold) {
#if VEC_BYTES == 64
  return _mm512_cmp_ps_mask(__m512(value), _mm512_set1_ps(threshold), _CMP_GE_OQ);
#elif VEC_BYTES == 32
  return _mm256_movemask_ps(_mm256_cmp_ps(__m256(value), _mm256_set1_ps(threshold), _CMP_GE_OQ));
#else
  uint64_t bits = 0;
  for (int64_t i = 0; i < kLanes<float>; ++i) bits |= uint64_t(value[i] >= threshold) << i;
  return bits;
#endif
}

// Interpolates a row of knots at the columns of the image.
inline void stretch_row(const float* row, const int32_t* knots, const float* fractions,
                        int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = lerp(row[knots[i]], row[knots[i] + 1], fractions[i]);
}

// Interpolates one image row between two stretched rows and applies the threshold.
inline void threshold_row(const float* above, const float* below, float fraction, float threshold,
                          int64_t count, bool* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = lerp(above[i], below[i], fraction) >= threshold;
}

// Does the same with packed bits, the lowest bit of a byte first. The rows are readable up to a
// multiple of 64.
inline void pack_row(const float* above, const float* below, float fraction, float threshold,
                     int64_t bytes, uint8_t* out) {
  for (int64_t byte = 0; byte < bytes; byte += 8) {
    uint64_t word = 0;
    for (int64_t i = 0; i < 64; i += kLanes<float>) {
      const int64_t at = 8 * byte + i;
      word |= reached(lerp(load(above + at), load(below + at), fraction), threshold) << i;
    }
    for (int64_t i = byte; i < std::min(byte + 8, bytes); ++i, word >>= 8) out[i] = uint8_t(word);
  }
}
