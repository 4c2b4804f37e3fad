// RMSNorm of one row (or head) and rotation of one head.
#pragma once

#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

// sum of squares: eight lanes by k % 8, fma in ascending k, then the tree.
static inline float sum_of_squares(const float* x, size_t n) noexcept {
  float lanes[8] = {};
  size_t k = 0;
#if defined(STEPAHEAD_VECTOR_AVX2)
  __m256 acc = _mm256_setzero_ps();
  for (; k + 8 <= n; k += 8) {
    const __m256 v = _mm256_loadu_ps(x + k);
    acc = _mm256_fmadd_ps(v, v, acc);
  }
  _mm256_storeu_ps(lanes, acc);
#elif defined(STEPAHEAD_VECTOR_NEON)
  Eight acc = zero_eight();
  for (; k + 8 <= n; k += 8) {
    const Eight v = load_eight(x + k);
    acc = fma(v, v, acc);
  }
  store_eight(lanes, acc);
#endif
  for (; k < n; ++k) lanes[k % 8] = fma(x[k], x[k], lanes[k % 8]);
  return sum_lanes(lanes);
}

// out = (x * (1 / sqrt(mean + eps))) * weight
static void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) noexcept {
  const float inverse = 1.0f / __builtin_sqrtf(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  if (weight == nullptr) {
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * inverse;
  } else {
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
  }
}

// (a, b) -> (a cos - b sin, a sin + b cos), the second product rounded, the first one fused.
static void rope(float* x, const float* cos, const float* sin, size_t half) noexcept {
  for (size_t j = 0; j < half; ++j) {
    const float a = x[j], b = x[j + half];
    x[j] = fma(a, cos[j], -(b * sin[j]));
    x[j + half] = fma(b, cos[j], a * sin[j]);
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
