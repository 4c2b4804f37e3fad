// Activations to int8: per block d = amax / 127 and q = rint(x * (127 / amax)), ties to even; in blocks of 32, d is
// rounded to a half where that is a normal number. A block that holds an Inf or NaN gets d = NaN and q = 0, so every
// output that reads it is NaN; one below kTiniest gets zeros.
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
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xB1))));
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

// One block after the other; d as the block's type stores it.
static inline void quantize_blocks(const float* x, size_t num_blocks, size_t block, int8_t* q, float* d) noexcept {
  for (size_t b = 0; b < num_blocks; ++b) {
    d[b] = quantize_block(x + b * block, block, q + b * block);
    // NaN fails the comparison and stays.
    if (block == 32 && d[b] >= kHalfMin && d[b] <= kHalfMax) d[b] = half_to_float(float_to_half(d[b]));
  }
}

// Sums of 16 neighbouring q, `count` of them.
static inline void sum_neighbours(const int8_t* q, size_t count, int16_t* sums) noexcept {
  for (size_t j = 0; j < count; ++j) {
    int sum = 0;
    for (size_t i = 16 * j; i < 16 * j + 16; ++i) sum += q[i];
    sums[j] = static_cast<int16_t>(sum);
  }
}

#if !defined(STEPAHEAD_VECTOR_AVX2)

static void quantize_row(const float* x, size_t n, size_t block, int8_t* q, float* d, int16_t* sums) noexcept {
  quantize_blocks(x, n / block, block, q, d);
  sum_neighbours(q, n / 16, sums);
}

#else

// Lane i of the result is the largest magnitude of block i of eight.
static inline __m256i largest_magnitudes(const float* x, size_t block) noexcept {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i of_block[8];
  for (size_t b = 0; b < 8; ++b) {
    of_block[b] = _mm256_setzero_si256();
    for (size_t i = b * block; i < (b + 1) * block; i += 8) {
      of_block[b] = _mm256_max_epi32(of_block[b], _mm256_and_si256(load_256(x + i), magnitude));
    }
  }
  __m256i half[4], quarter[2];  // as in sum_lanes_of_8
  for (size_t b = 0; b < 4; ++b) {
    half[b] = _mm256_max_epi32(_mm256_permute2x128_si256(of_block[b], of_block[b + 4], 0x20),
                               _mm256_permute2x128_si256(of_block[b], of_block[b + 4], 0x31));
  }
  for (size_t b = 0; b < 2; ++b) {
    quarter[b] = _mm256_max_epi32(_mm256_unpacklo_epi64(half[2 * b], half[2 * b + 1]),
                                  _mm256_unpackhi_epi64(half[2 * b], half[2 * b + 1]));
  }
  const __m256 first = _mm256_castsi256_ps(quarter[0]), second = _mm256_castsi256_ps(quarter[1]);
  return _mm256_max_epi32(_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88)),
                          _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xDD)));
}

// Eight blocks at a time: their scales are one vector. False, and nothing done, if one holds an Inf or NaN.
static inline bool quantize_8_blocks(const float* x, size_t block, int8_t* q, float* d) noexcept {
  const __m256i bits = largest_magnitudes(x, block);
  if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(bits, _mm256_set1_epi32(0x7F7FFFFF))) != 0) return false;
  const __m256 amax = _mm256_castsi256_ps(bits), most = _mm256_set1_ps(127.0f);
  const __m256 counts = _mm256_cmp_ps(amax, _mm256_set1_ps(kTiniest), _CMP_GE_OQ);
  __m256 scale = _mm256_and_ps(_mm256_div_ps(amax, most), counts);
  if (block == 32) {
    const __m256 as_half = _mm256_cvtph_ps(_mm256_cvtps_ph(scale, _MM_FROUND_TO_NEAREST_INT));
    const __m256 is_normal = _mm256_and_ps(_mm256_cmp_ps(scale, _mm256_set1_ps(kHalfMin), _CMP_GE_OQ),
                                           _mm256_cmp_ps(scale, _mm256_set1_ps(kHalfMax), _CMP_LE_OQ));
    scale = _mm256_blendv_ps(scale, as_half, is_normal);
  }
  _mm256_storeu_ps(d, scale);
  alignas(32) float inverse[8];  // 0 where the block counts as zeros
  _mm256_store_ps(inverse, _mm256_and_ps(_mm256_div_ps(most, amax), counts));
  for (size_t b = 0; b < 8; ++b) quantize_values(x + b * block, block, inverse[b], q + b * block);
  return true;
}

// The sums of 128 q; a byte plus 128 is unsigned, and eight of those are added by one instruction.
static inline void sum_128_neighbours(const int8_t* q, int16_t* sums) noexcept {
  __m256i eights[4];  // four sums of eight, 64 bits apart
  for (size_t i = 0; i < 4; ++i) {
    eights[i] = _mm256_sad_epu8(_mm256_xor_si256(load_256(q + 32 * i), _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  }
  const __m256i sixteens = _mm256_hadd_epi32(_mm256_packus_epi32(eights[0], eights[1]),
                                             _mm256_packus_epi32(eights[2], eights[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i sorted =
      _mm256_sub_epi32(_mm256_permutevar8x32_epi32(sixteens, order), _mm256_set1_epi32(16 * 128));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                   _mm_packs_epi32(_mm256_castsi256_si128(sorted), _mm256_extracti128_si256(sorted, 1)));
}

static void quantize_row(const float* x, size_t n, size_t block, int8_t* q, float* d, int16_t* sums) noexcept {
  const size_t num_blocks = n / block;
  size_t b = 0;
  for (; b + 8 <= num_blocks; b += 8) {
    if (!quantize_8_blocks(x + b * block, block, q + b * block, d + b)) {
      quantize_blocks(x + b * block, 8, block, q + b * block, d + b);
    }
  }
  quantize_blocks(x + b * block, num_blocks - b, block, q + b * block, d + b);
  size_t j = 0;
  for (; j + 8 <= n / 16; j += 8) sum_128_neighbours(q + 16 * j, sums + j);
  sum_neighbours(q + 16 * j, n / 16 - j, sums + j);
}

#endif

}  // namespace stepahead::STEPAHEAD_ISA
