// e^x, and the sigmoid and silu made of it: one sequence of fused operations, the same in scalar and vector code, so
// that the tail of a vector loop and every instruction set give the same bits. Error below 1 ulp (tests/backends/cpu).
#pragma once

#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

// x = n ln 2 + r; e^r = 1 + r + r^2 p(r), p by weighted least squares for relative error on |r| <= ln(2) / 2.
static constexpr float kExpMax = 89.0f, kExpMin = -104.0f;  // beyond: Inf and 0 by the scaling itself
static constexpr float kLog2E = 0x1.715476p+0f, kLn2High = 0x1.62e430p-1f, kLn2Low = -0x1.05c610p-29f;
static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
static constexpr float kExp[5] = {0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a234ep-10f};

static inline float exp_1(float x) noexcept {
  x = kExpMax < x ? kExpMax : x;  // NaN passes
  x = kExpMin > x ? kExpMin : x;
  const float shifted = fma(x, kLog2E, kRound);
  const float n = shifted - kRound;
  const float r = fma(-n, kLn2Low, fma(-n, kLn2High, x));
  float p = fma(fma(fma(fma(kExp[4], r, kExp[3]), r, kExp[2]), r, kExp[1]), r, kExp[0]);
  p = fma(p, r * r, r) + 1.0f;
  // 2^n in two factors: n reaches from -150 to 128, beyond one exponent. Unsigned, as n is garbage for NaN.
  const uint32_t whole = bits_of(shifted) - bits_of(kRound);
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(whole) >> 1);
  return p * float_of((half + 127) << 23) * float_of((whole - half + 127) << 23);
}

static inline float sigmoid_1(float x) noexcept { return 1.0f / (1.0f + exp_1(-x)); }
static inline float silu_1(float x) noexcept { return x / (1.0f + exp_1(-x)); }

#if defined(STEPAHEAD_VECTOR_AVX2)

static inline __m256 exp_8(__m256 x) noexcept {
  x = _mm256_min_ps(_mm256_set1_ps(kExpMax), x);  // the second operand where one is NaN
  x = _mm256_max_ps(_mm256_set1_ps(kExpMin), x);
  const __m256 round = _mm256_set1_ps(kRound);
  const __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(kLog2E), round);
  const __m256 n = _mm256_sub_ps(shifted, round);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2High), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Low), r);
  __m256 p = _mm256_set1_ps(kExp[4]);
  for (int i = 3; i >= 0; --i) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp[i]));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
  const __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(round));
  const __m256i half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

#if defined(STEPAHEAD_VECTOR_AVX512)
static inline __m512 exp_16(__m512 x) noexcept {
  x = _mm512_min_ps(_mm512_set1_ps(kExpMax), x);  // the second operand where one is NaN
  x = _mm512_max_ps(_mm512_set1_ps(kExpMin), x);
  const __m512 round = _mm512_set1_ps(kRound);
  const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(kLog2E), round), round);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2High), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Low), r);
  __m512 p = _mm512_set1_ps(kExp[4]);
  for (int i = 3; i >= 0; --i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExp[i]));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);  // rounds once, as the two factors do: the first one is exact
}
#endif

static inline __m256 one_plus_exp_minus(__m256 x) noexcept {
  return _mm256_add_ps(_mm256_set1_ps(1.0f), exp_8(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f))));
}
static inline __m256 sigmoid_8(__m256 x) noexcept { return _mm256_div_ps(_mm256_set1_ps(1.0f), one_plus_exp_minus(x)); }
static inline __m256 silu_8(__m256 x) noexcept { return _mm256_div_ps(x, one_plus_exp_minus(x)); }

#endif

}  // namespace stepahead::STEPAHEAD_ISA
