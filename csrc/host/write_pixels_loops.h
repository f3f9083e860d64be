// Loops of write_pixels over one row. Included by common/each_isa.h. Input rows are readable 16
// values past their end, and intermediate rows writable as far; the output is not.

// The three channels of a pixel, and an unused fourth lane.
typedef int32_t Quad __attribute__((vector_size(16)));
typedef float FloatQuad __attribute__((vector_size(16)));

inline Quad load_pixel(const uint8_t* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof(bytes));
#if VEC_BYTES > 16
  return Quad(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes)));
#else
  return Quad{bytes, bytes >> 8, bytes >> 16, bytes >> 24} & 0xFF;
#endif
}

inline FloatQuad load_pixel(const float* p) {
  FloatQuad v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// The lanes are in [0, 2^15) and are limited to 255.
inline void store_pixel(uint8_t* p, const Quad& v) {
#if VEC_BYTES > 16
  const __m128i words = _mm_packus_epi32(__m128i(v), __m128i(v));
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  std::memcpy(p, &bytes, sizeof(bytes));
#else
  for (int64_t c = 0; c < 3; ++c) p[c] = uint8_t(std::min(v[c], 255));
#endif
}

// The lanes are in [0, 2^15).
inline void store_pixel(int16_t* p, const Quad& v) {
#if VEC_BYTES > 16
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(__m128i(v), __m128i(v)));
#else
  for (int64_t c = 0; c < 3; ++c) p[c] = int16_t(v[c]);
#endif
}

// Loads bytes as integers.
inline FloatIndexVec load_bytes(const uint8_t* p) {
#if VEC_BYTES == 64
  return FloatIndexVec(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif VEC_BYTES == 32
  return FloatIndexVec(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return load_pixel(p);
#endif
}

// Normalises and stores three vectors, or as many values as are left in the row.
inline void put(FloatVec (&pixels)[3], const ChannelScale& scale, int64_t left, float* out) {
  constexpr int64_t n = kLanes<float>;
  for (int64_t j = 0; j < 3; ++j)
    pixels[j] = (pixels[j] - load(scale.mean + j * n)) / load(scale.std + j * n);
  if (left >= 3 * n)
    for (int64_t j = 0; j < 3; ++j) store(out + j * n, pixels[j]);
  else
    std::memcpy(out, pixels, left * sizeof(float));
}

// --- Wide taps, 8 bits between the passes ---

// kCount is the number of taps, or 0 for any.
template <int kCount>
void stretch_wide_row(const uint8_t* row, const WideTaps& taps, uint8_t* out) {
  const int32_t* weights = taps.weights.data();
  const int64_t count = kCount > 0 ? kCount : taps.count;
  for (const int64_t first : taps.first) {
    Quad sum = Quad{} + (1 << (kWideBits - 1));
    for (int64_t k = 0; k < count; ++k) sum += load_pixel(row + 3 * (first + k)) * weights[k];
    store_pixel(out, sum >> kWideBits);
    weights += count, out += 3;
  }
}

inline void stretch_row(const uint8_t* row, const WideTaps& taps, uint8_t* out) {
  if (taps.count == 2) return stretch_wide_row<2>(row, taps, out);
  if (taps.count == 3) return stretch_wide_row<3>(row, taps, out);
  if (taps.count == 4) return stretch_wide_row<4>(row, taps, out);
  stretch_wide_row<0>(row, taps, out);
}

inline void blend_rows(const uint8_t* const* rows, const int32_t* weights, int64_t count,
                       const ChannelScale& scale, int64_t values, float* out) {
  constexpr int64_t n = kLanes<float>;
  const FloatIndexVec half = FloatIndexVec{} + (1 << (kWideBits - 1));
  const FloatIndexVec most = FloatIndexVec{} + 255;  // millions of rounded weights may sum to more
  for (int64_t i = 0; i < values; i += 3 * n) {
    FloatIndexVec sums[3] = {half, half, half};
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < 3; ++j) sums[j] += load_bytes(rows[k] + i + j * n) * weights[k];
    FloatVec pixels[3];
    for (int64_t j = 0; j < 3; ++j)
      pixels[j] = __builtin_convertvector(smaller(sums[j] >> kWideBits, most), FloatVec);
    put(pixels, scale, values - i, out + i);
  }
}

// --- Pairs of taps, 4 fractional bits between the passes ---

inline void stretch_row(const uint8_t* row, const PairTaps<int32_t>& taps, int16_t* out) {
  const int64_t pixels = int64_t(taps.left.size());
  for (int64_t x = 0; x < pixels; ++x) {
    const Quad sum = load_pixel(row + 3 * taps.left[x]) * taps.left_weight[x] +
                     load_pixel(row + 3 * taps.right[x]) * taps.right_weight[x];
    store_pixel(out + 3 * x, sum >> 4);
  }
}

inline void blend_rows(const int16_t* top, const int16_t* bottom, int16_t top_weight,
                       int16_t bottom_weight, const ChannelScale& scale, int64_t values,
                       float* out) {
  constexpr int64_t n = kLanes<float>;
  for (int64_t i = 0; i < values; i += 3 * n) {
    float numbers[3 * n];
    // Each product is cut to 2 fractional bits before they are added.
    for (int64_t j = 0; j < 3 * n; ++j)
      numbers[j] =
          float(((top[i + j] * top_weight >> 16) + (bottom[i + j] * bottom_weight >> 16) + 2) >> 2);
    FloatVec pixels[3] = {load(numbers), load(numbers + n), load(numbers + 2 * n)};
    put(pixels, scale, values - i, out + i);
  }
}

// --- Pairs of taps, float between the passes ---

inline FloatQuad multiply_add(const FloatQuad& a, float b, const FloatQuad& c) {
#if VEC_BYTES > 16
  return FloatQuad(_mm_fmadd_ps(__m128(a), _mm_set1_ps(b), __m128(c)));
#else
  return a * b + c;
#endif
}

inline void normalise_row(const uint8_t* row, const ChannelScale& scale, int64_t values,
                          float* out) {
  constexpr int64_t n = kLanes<float>;
  for (int64_t i = 0; i < values; i += 3 * n) {
    FloatVec pixels[3];
    for (int64_t j = 0; j < 3; ++j)
      pixels[j] = __builtin_convertvector(load_bytes(row + i + j * n), FloatVec);
    put(pixels, scale, values - i, out + i);
  }
}

inline void stretch_row(const float* row, const PairTaps<float>& taps, float* out) {
  const int64_t pixels = int64_t(taps.left.size());
  for (int64_t x = 0; x < pixels; ++x) {
    const FloatQuad pixel =
        multiply_add(load_pixel(row + 3 * taps.left[x]), taps.left_weight[x],
                     load_pixel(row + 3 * taps.right[x]) * taps.right_weight[x]);
    std::memcpy(out + 3 * x, &pixel, sizeof(pixel));
  }
}

inline void blend_rows(const float* top, const float* bottom, float top_weight, float bottom_weight,
                       int64_t values, float* out) {
  constexpr int64_t n = kLanes<float>;
  const FloatVec over = top_weight - FloatVec{}, under = bottom_weight - FloatVec{};
  int64_t i = 0;
  for (; i + n <= values; i += n)
    store(out + i, multiply_add(load(top + i), over, load(bottom + i) * under));
  const FloatVec rest = multiply_add(load(top + i), over, load(bottom + i) * under);
  std::memcpy(out + i, &rest, (values - i) * sizeof(float));
}
