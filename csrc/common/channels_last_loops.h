// Loops that transpose a map in squares that fit registers. Included by common/each_isa.h.

#if VEC_BYTES > 16
// Loads 8 x 8 values, in rows that are `stride` apart, as 8 columns.
inline void transpose_square(const float* rows, int64_t stride, __m256 (&columns)[8]) {
  __m256 row[8], pair[8], four[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(rows + i * stride);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int half = 0; half < 2; ++half) {
      four[i + 2 * half] = _mm256_shuffle_ps(pair[i + half], pair[i + half + 2], 0x44);
      four[i + 2 * half + 1] = _mm256_shuffle_ps(pair[i + half], pair[i + half + 2], 0xEE);
    }
  for (int i = 0; i < 4; ++i) {
    columns[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
    columns[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
  }
}
#endif

// map (channels, pixels) -> out (pixels, channels) for the pixels from `first` to `last`. The
// number of channels is a multiple of 16, so whole aligned cache lines of `out` are stored past the
// caches.
inline void interleave(const float* map, int64_t channels, int64_t pixels, int64_t first,
                       int64_t last, float* out) {
  for (int64_t c = 0; c < channels; c += 16) {
    int64_t p = first;
#if VEC_BYTES > 16
    for (; p + 8 <= last; p += 8) {
      __m256 low[8], high[8];
      transpose_square(map + c * pixels + p, pixels, low);
      transpose_square(map + (c + 8) * pixels + p, pixels, high);
      for (int i = 0; i < 8; ++i) {
        _mm256_stream_ps(out + (p + i) * channels + c, low[i]);
        _mm256_stream_ps(out + (p + i) * channels + c + 8, high[i]);
      }
    }
#endif
    for (; p < last; ++p)
      for (int64_t i = c; i < c + 16; ++i) out[p * channels + i] = map[i * pixels + p];
  }
  stream_fence();
}
