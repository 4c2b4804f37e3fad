// Elementwise operations. Loops without a vector twin are left to the compiler: they have one rounding an element.
#pragma once

#include "kernels/exp.h"

namespace stepahead::STEPAHEAD_ISA {

static void add(const float* x, const float* y, size_t n, float* out) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = x[i] + y[i];
}

static void scale(const float* x, float factor, size_t n, float* out) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

static void add_scaled(const float* x, float weight, size_t n, float* acc) noexcept {
  for (size_t i = 0; i < n; ++i) acc[i] = fma(weight, x[i], acc[i]);
}

// A limit above kLimitThreshold caps silu(gate) and clips up; anything else means no limit, which is one of infinity.
static constexpr float kLimitThreshold = 1e-6f;

static inline float limit_of(float limit) noexcept { return limit > kLimitThreshold ? limit : __builtin_inff(); }

// Without a branch: where the compiler has fused operations, it makes vectors of this.
static inline float swiglu_1(float gate, float up, float limit) noexcept {
  float g = silu_1(gate);
  g = limit < g ? limit : g;  // NaN passes, here and below
  up = limit < up ? limit : up;
  up = -limit > up ? -limit : up;
  return g * up;
}

#if !defined(STEPAHEAD_VECTOR_AVX2)

static void exp(const float* x, size_t n, float* out) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = exp_1(x[i]);
}

static void sigmoid(const float* x, size_t n, float* out) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = sigmoid_1(x[i]);
}

static void swiglu(const float* gate, const float* up, size_t n, float limit, float* out) noexcept {
  limit = limit_of(limit);
  for (size_t i = 0; i < n; ++i) out[i] = swiglu_1(gate[i], up[i], limit);
}

#else

static void exp(const float* x, size_t n, float* out) noexcept {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, exp_8(_mm256_loadu_ps(x + i)));
  for (; i < n; ++i) out[i] = exp_1(x[i]);
}

static void sigmoid(const float* x, size_t n, float* out) noexcept {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, sigmoid_8(_mm256_loadu_ps(x + i)));
  for (; i < n; ++i) out[i] = sigmoid_1(x[i]);
}

static void swiglu(const float* gate, const float* up, size_t n, float limit, float* out) noexcept {
  limit = limit_of(limit);
  const __m256 most = _mm256_set1_ps(limit), least = _mm256_set1_ps(-limit);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 g = _mm256_min_ps(most, silu_8(_mm256_loadu_ps(gate + i)));  // the second operand where one is NaN
    const __m256 u = _mm256_max_ps(least, _mm256_min_ps(most, _mm256_loadu_ps(up + i)));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(g, u));
  }
  for (; i < n; ++i) out[i] = swiglu_1(gate[i], up[i], limit);
}

#endif

}  // namespace stepahead::STEPAHEAD_ISA
