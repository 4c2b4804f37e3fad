// Activations to int8: per block d = amax / 127 and q = rint(x * (127 / amax)), ties to even; in blocks of 32, d is
// rounded to a half where that is a normal number. A block that holds an Inf or NaN gets d = NaN and q = 0, so every output that reads it is NaN; one
// below kTiniest gets zeros.
#pragma once

#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

// Below this 127 / amax may overflow.
static constexpr float kTiniest = 0x1p-120f;
// The normal halves: outside of them a scale keeps its float's range.
static constexpr float kHalfMin = 0x1p-14f, kHalfMax = 65504.0f;

#if !defined(STEPAHEAD_VECTOR_AVX2)

// The largest |x|, as bits: integers order all magnitudes, Inf and NaN above the finite ones.
static inline uint32_t largest_magnitude(const float* x, size_t n) noexcept {
  uint32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t magnitude = bits_of(x[i]) & 0x7FFFFFFF;
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

// q = rint(x * inverse) within [-127, 127]; x * inverse is at most a few hundred.
static inline void quantize_values(const float* x, size_t n, float inverse, int8_t* q) noexcept {
  // 1.5 * 2^23: adding it rounds, ties to even, and leaves the integer in the low bits.
  constexpr float magic = 12582912.0f;
  for (size_t i = 0; i < n; ++i) {
    const auto value = static_cast<int32_t>(bits_of(x[i] * inverse + magic) - bits_of(magic));
    q[i] = static_cast<int8_t>(value > 127 ? 127 : value < -127 ? -127 : value);
  }
}

#else

// n is a multiple of 32, here and below
static inline uint32_t largest_magnitude(const float* x, size_t n) noexcept {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i most = _mm256_setzero_si256();
  for (size_t i = 0; i < n; i += 8) most = _mm256_max_epi32(most, _mm256_and_si256(load_256(x + i), magnitude));
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), most);
  uint32_t result = 0;
  for (const uint32_t lane : lanes) result = lane > result ? lane : result;
  return result;
}

static inline void quantize_values(const float* x, size_t n, float inverse, int8_t* q) noexcept {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes the packs within 128-bit halves
  for (size_t i = 0; i < n; i += 32) {
    __m256i v[4];
    for (size_t j = 0; j < 4; ++j) v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), factor));
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    const __m256i clipped = _mm256_max_epi8(packed, _mm256_set1_epi8(-127));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), _mm256_permutevar8x32_epi32(clipped, order));
  }
}

#endif

// Returns d.
static inline float quantize_block(const float* x, size_t n, int8_t* q) noexcept {
  const uint32_t amax_bits = largest_magnitude(x, n);
  const float amax = float_of(amax_bits);
  if (amax_bits >= 0x7F800000 || amax < kTiniest) {
    memset(q, 0, n);
    return amax_bits >= 0x7F800000 ? float_of(0x7FC00000) : 0.0f;
  }
  quantize_values(x, n, 127.0f / amax, q);
  return amax / 127.0f;
}

static void quantize_row(const float* x, size_t n, size_t block, int8_t* q, float* d, int16_t* sums) noexcept {
  for (size_t b = 0; b < n / block; ++b) {
    d[b] = quantize_block(x + b * block, block, q + b * block);
    // NaN fails the comparison and stays.
    if (block == 32 && d[b] >= kHalfMin && d[b] <= kHalfMax) d[b] = half_to_float(float_to_half(d[b]));
  }
  for (size_t j = 0; j < n / 16; ++j) {
    int sum = 0;
    for (size_t i = 16 * j; i < 16 * j + 16; ++i) sum += q[i];
    sums[j] = static_cast<int16_t>(sum);
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
