// Numbers: what the kernels need of <cmath>, half floats, and the reductions that docs/numerics.md fixes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(STEPAHEAD_VECTOR_AVX2)
#include <immintrin.h>
#elif defined(STEPAHEAD_VECTOR_NEON)
#include <arm_neon.h>
#endif

// For what a kernel must not call: vectors would pass through memory, and GCC drops calls that only prefetch.
#define STEPAHEAD_INLINE inline __attribute__((always_inline))

namespace stepahead::STEPAHEAD_ISA {


static inline uint32_t bits_of(float x) noexcept {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

static inline float float_of(uint32_t bits) noexcept {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// One rounding.
static inline float fma(float a, float b, float c) noexcept {
#if defined(_WIN32) && !defined(__FMA__)
  // The fmaf of mingw-w64 rounds twice. The product is exact in binary64; a sum rounded to odd rounds to float as the
  // exact one would.
  const double product = double{a} * b, sum = product + c, part = sum - product;
  const double error = (product - (sum - part)) + (c - part);
  uint64_t bits;
  memcpy(&bits, &sum, 8);
  if ((error > 0 || error < 0) && bits % 2 == 0) bits += (error > 0) == (sum > 0) ? 1 : -1;
  double odd;
  memcpy(&odd, &bits, 8);
  return static_cast<float>(odd);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

static inline uint16_t load_u16(const uint8_t* p) noexcept {
  uint16_t bits;
  memcpy(&bits, p, 2);
  return bits;
}

static inline uint32_t load_u32(const uint8_t* p) noexcept {
  uint32_t bits;
  memcpy(&bits, p, 4);
  return bits;
}

static inline float load_f32(const uint8_t* p) noexcept {
  float x;
  memcpy(&x, p, 4);
  return x;
}

// IEEE binary16 to binary32, exact.
static inline float half_to_float(uint16_t h) noexcept {
#if defined(STEPAHEAD_VECTOR_AVX2)
  return _cvtsh_ss(h);
#elif defined(STEPAHEAD_VECTOR_NEON)
  __fp16 half;
  memcpy(&half, &h, 2);
  return half;
#else
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, rest = h & 0x7FFFu;
  if (rest >= 0x7C00) return float_of(sign | 0x7F800000 | (rest & 0x3FF) << 13);  // Inf, NaN
  if (rest >= 0x0400) return float_of(sign | ((rest << 13) + (112u << 23)));
  const float magnitude = static_cast<float>(rest) * 0x1p-24f;  // denormal: exact
  return float_of(sign | bits_of(magnitude));
#endif
}

// binary32 to binary16, to nearest, ties to even.
static inline uint16_t float_to_half(float x) noexcept {
#if defined(STEPAHEAD_VECTOR_AVX2)
  return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(STEPAHEAD_VECTOR_NEON)
  const auto half = static_cast<__fp16>(x);
  uint16_t h;
  memcpy(&h, &half, 2);
  return h;
#else
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7FFFFFFF;
  if (rest > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (rest >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // from 65520 on
  if (rest < 0x38800000) {
    // Denormal in binary16: adding 0.5 lets the float addition round at 2^-24.
    return static_cast<uint16_t>(sign | (bits_of(float_of(rest) + 0.5f) - 0x3F000000));
  }
  const uint32_t odd = rest >> 13 & 1;
  return static_cast<uint16_t>(sign | ((rest - (112u << 23) + 0xFFF + odd) >> 13));
#endif
}

// The tree of the eight lanes.
static inline float sum_lanes(const float* lanes) noexcept {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

#if defined(STEPAHEAD_VECTOR_AVX2)

static inline float sum_lanes(__m256 v) noexcept {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Lane i of the result is sum_lanes(v[i]), by the same tree.
static inline __m256 sum_lanes_of_8(const __m256* v) noexcept {
  __m256 half[4];  // [v(i) 0+4 1+5 2+6 3+7 | v(i+4) …]
  for (int i = 0; i < 4; ++i) {
    half[i] = _mm256_add_ps(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20),
                            _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
  }
  __m256 quarter[2];  // [v(0) even odd, v(1) even odd | v(4), v(5)], [v(2), v(3) | v(6), v(7)]
  for (int i = 0; i < 2; ++i) {
    const __m256d a = _mm256_castps_pd(half[2 * i]), b = _mm256_castps_pd(half[2 * i + 1]);
    quarter[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return _mm256_add_ps(_mm256_shuffle_ps(quarter[0], quarter[1], 0x88),
                       _mm256_shuffle_ps(quarter[0], quarter[1], 0xDD));
}

// Lane i of the result is the sum of the lanes of v[i]; exact, so the order is free.
static inline __m256i sum_lanes_of_8(const __m256i* v) noexcept {
  __m256i half[4];
  for (int i = 0; i < 4; ++i) {
    half[i] = _mm256_add_epi32(_mm256_permute2x128_si256(v[i], v[i + 4], 0x20),
                               _mm256_permute2x128_si256(v[i], v[i + 4], 0x31));
  }
  return _mm256_hadd_epi32(_mm256_hadd_epi32(half[0], half[1]), _mm256_hadd_epi32(half[2], half[3]));
}

static inline __m256i load_256(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
static inline __m128i load_128(const void* p) noexcept { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

#elif defined(STEPAHEAD_VECTOR_NEON)

// Eight lanes.
struct Eight {
  float32x4_t low, high;
};

static inline Eight load_eight(const float* p) noexcept { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
static inline void store_eight(float* p, Eight x) noexcept { vst1q_f32(p, x.low), vst1q_f32(p + 4, x.high); }
static inline Eight zero_eight() noexcept { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
static inline Eight fma(Eight a, Eight b, Eight c) noexcept {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}

#endif

// F32, F16 and BF16 elements: weights, and F32 and F16 in the KV cache.
struct F32 {
  static constexpr size_t bytes = 4;
  static float load(const uint8_t* p) noexcept { return load_f32(p); }
#if defined(STEPAHEAD_VECTOR_AVX2)
  static __m256 load_8(const uint8_t* p) noexcept { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
#elif defined(STEPAHEAD_VECTOR_NEON)
  static Eight load_8(const uint8_t* p) noexcept {
    return {vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))};
  }
#endif
#if defined(STEPAHEAD_VECTOR_AVX512)
  static __m512 load_8_and_8(const uint8_t* p, const uint8_t* q) noexcept {
    return _mm512_insertf32x8(_mm512_castps256_ps512(load_8(p)), load_8(q), 1);
  }
#endif
};

struct F16 {
  static constexpr size_t bytes = 2;
  static float load(const uint8_t* p) noexcept { return half_to_float(load_u16(p)); }
#if defined(STEPAHEAD_VECTOR_AVX2)
  static __m256 load_8(const uint8_t* p) noexcept { return _mm256_cvtph_ps(load_128(p)); }
#elif defined(STEPAHEAD_VECTOR_NEON)
  static Eight load_8(const uint8_t* p) noexcept {
    const float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(p));
    return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
  }
#endif
#if defined(STEPAHEAD_VECTOR_AVX512)
  static __m512 load_8_and_8(const uint8_t* p, const uint8_t* q) noexcept {
    return _mm512_cvtph_ps(_mm256_set_m128i(load_128(q), load_128(p)));
  }
#endif
};

struct BF16 {
  static constexpr size_t bytes = 2;
  static float load(const uint8_t* p) noexcept { return float_of(uint32_t{load_u16(p)} << 16); }
#if defined(STEPAHEAD_VECTOR_AVX2)
  static __m256 load_8(const uint8_t* p) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
  }
#elif defined(STEPAHEAD_VECTOR_NEON)
  static Eight load_8(const uint8_t* p) noexcept {
    const uint16x8_t upper = vreinterpretq_u16_u8(vld1q_u8(p)), lower = vdupq_n_u16(0);
    return {vreinterpretq_f32_u16(vzip1q_u16(lower, upper)), vreinterpretq_f32_u16(vzip2q_u16(lower, upper))};
  }
#endif
#if defined(STEPAHEAD_VECTOR_AVX512)
  static __m512 load_8_and_8(const uint8_t* p, const uint8_t* q) noexcept {
    const __m256i both = _mm256_set_m128i(load_128(q), load_128(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(both), 16));
  }
#endif
};

}  // namespace stepahead::STEPAHEAD_ISA
