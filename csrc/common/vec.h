// Vectors of VEC_BYTES bytes with the arithmetic operators of GCC's vector extension. Included by
// common/each_isa.h once per width, without an include guard.

typedef float FloatVec __attribute__((vector_size(VEC_BYTES)));
typedef double DoubleVec __attribute__((vector_size(VEC_BYTES)));
typedef uint32_t WordVec __attribute__((vector_size(VEC_BYTES)));
typedef int32_t FloatIndexVec __attribute__((vector_size(VEC_BYTES)));
typedef int64_t DoubleIndexVec __attribute__((vector_size(VEC_BYTES)));
typedef uint16_t HalfWordVec __attribute__((vector_size(VEC_BYTES / 2)));

// The vector type for sums of A (float, double).
template <typename A>
struct VecOf {
  using type = FloatVec;
};
template <>
struct VecOf<double> {
  using type = DoubleVec;
};
template <typename A>
using Vec = typename VecOf<A>::type;

template <typename A>
constexpr int64_t kLanes = VEC_BYTES / sizeof(A);

inline FloatVec load(const float* p) {
  FloatVec v;
  std::memcpy(&v, p, VEC_BYTES);
  return v;
}

inline DoubleVec load(const double* p) {
  DoubleVec v;
  std::memcpy(&v, p, VEC_BYTES);
  return v;
}

// A bfloat16 is the upper half of a float. (GCC compiles such a __builtin_convertvector to many
// instructions.)
inline FloatVec load(const c10::BFloat16* p) {
#if VEC_BYTES == 64
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return FloatVec(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif VEC_BYTES == 32
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return FloatVec(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
  HalfWordVec half;
  std::memcpy(&half, p, VEC_BYTES / 2);
  return FloatVec(__builtin_convertvector(half, WordVec) << 16);
#endif
}

inline FloatVec load(const c10::Half* p) {
#if VEC_BYTES == 64
  return FloatVec(
      _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif VEC_BYTES == 32
  return FloatVec(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  FloatVec v;
  for (int64_t i = 0; i < kLanes<float>; ++i) v[i] = float(p[i]);
  return v;
#endif
}

inline void store(float* p, const FloatVec& v) { std::memcpy(p, &v, VEC_BYTES); }

inline void store(double* p, const DoubleVec& v) { std::memcpy(p, &v, VEC_BYTES); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline void store(c10::BFloat16* p, const FloatVec& v) {
  const WordVec bits = WordVec(v);
  const WordVec rounded = bits + 0x7FFF + (bits >> 16 & 1);
  const WordVec word = (v == v ? rounded : bits | 0x400000) >> 16;
#if VEC_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(__m512i(word)));
#elif VEC_BYTES == 32
  const __m256i packed = _mm256_packus_epi32(__m256i(word), __m256i(word));  // within 128 bits
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x8)));
#else
  const HalfWordVec half = __builtin_convertvector(word, HalfWordVec);
  std::memcpy(p, &half, VEC_BYTES / 2);
#endif
}

inline void store(c10::Half* p, const FloatVec& v) {
#if VEC_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xFFFF, __m512(v), 0));
#elif VEC_BYTES == 32
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(__m256(v), 0));
#else
  for (int64_t i = 0; i < kLanes<float>; ++i) p[i] = c10::Half(v[i]);
#endif
}

template <typename V>
inline V smaller(const V& a, const V& b) {
  return a < b ? a : b;
}

template <typename V>
inline V larger(const V& a, const V& b) {
  return a > b ? a : b;
}

// Returns whether any lane of a comparison is true. Compilers differ in the integer type of a
// comparison, so only the size of its lanes is used.
template <typename M>
inline bool any(const M& mask) {
  constexpr bool floats = sizeof(mask[0]) == sizeof(float);
#if VEC_BYTES == 64
  if constexpr (floats)
    return _mm512_movepi32_mask(__m512i(mask)) != 0;
  else
    return _mm512_movepi64_mask(__m512i(mask)) != 0;
#elif VEC_BYTES == 32
  if constexpr (floats)
    return _mm256_movemask_ps(__m256(mask)) != 0;
  else
    return _mm256_movemask_pd(__m256d(mask)) != 0;
#else
  if constexpr (floats)
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
  else
    return (mask[0] | mask[1]) != 0;
#endif
}

// Stores past the caches, to an address that is a multiple of the vector's size. For an output
// larger than the caches, no line is read before it is overwritten, and none evicts an input.
template <typename T, typename V>
inline void stream(T* p, const V& v) {
#if VEC_BYTES == 64
  if constexpr (sizeof(T) == 2) {
    alignas(32) T half[kLanes<float>];
    store(half, v);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p),
                        _mm256_load_si256(reinterpret_cast<const __m256i*>(half)));
  } else {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), __m512i(v));
  }
#elif VEC_BYTES == 32
  if constexpr (sizeof(T) == 2) {
    alignas(16) T half[kLanes<float>];
    store(half, v);
    _mm_stream_si128(reinterpret_cast<__m128i*>(p),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(half)));
  } else {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), __m256i(v));
  }
#else
  store(p, v);
#endif
}

// Makes streamed values visible to other threads before all later stores.
inline void stream_fence() {
#if VEC_BYTES > 16
  _mm_sfence();
#endif
}

// a * b + c, with a single rounding if the instruction set supports it.
template <typename V>
inline V multiply_add(const V& a, const V& b, const V& c) {
#if VEC_BYTES == 64
  if constexpr (std::is_same_v<V, FloatVec>)
    return V(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
  else
    return V(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
#elif VEC_BYTES == 32
  if constexpr (std::is_same_v<V, FloatVec>)
    return V(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
  else
    return V(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
#else
  return a * b + c;
#endif
}
