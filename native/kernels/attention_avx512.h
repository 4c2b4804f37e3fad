// Four query heads of a group at a time: two keys of eight lanes each share a vector, and the four heads share it.
// Included by attention.h, whose functions for one head do the rest.
#pragma once

#include "kernels/attention.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kHeads = 4;

static void score_4_heads(const float* q, const float* keys, size_t count, size_t head_dim, float scale,
                          float* s) noexcept {
  __m512 acc[kHeads][kTileKeys / 2];
  for (auto& of_head : acc) {
    for (__m512& pair : of_head) pair = _mm512_setzero_ps();
  }
  for (size_t d = 0; d < head_dim; d += 8) {
    __m512 k[kTileKeys / 2];
#pragma GCC unroll 4
    for (size_t j = 0; j < kTileKeys / 2; ++j) {
      const float* pair = keys + 2 * j * head_dim + d;
      k[j] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(pair)), _mm256_loadu_ps(pair + head_dim), 1);
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < kHeads; ++h) {
      const __m512 v = _mm512_broadcast_f32x8(_mm256_loadu_ps(q + h * head_dim + d));
#pragma GCC unroll 4
      for (size_t j = 0; j < kTileKeys / 2; ++j) acc[h][j] = _mm512_fmadd_ps(v, k[j], acc[h][j]);
    }
  }
  for (size_t h = 0; h < kHeads; ++h) {
    __m256 of_key[kTileKeys];
    for (size_t j = 0; j < kTileKeys; ++j) {
      of_key[j] = j % 2 ? _mm512_extractf32x8_ps(acc[h][j / 2], 1) : _mm512_castps512_ps256(acc[h][j / 2]);
    }
    const __m256 scores = _mm256_mul_ps(sum_lanes_of_8(of_key), _mm256_set1_ps(scale));
    float* out = s + h * kBlockSize;
    if (count == kTileKeys) {
      _mm256_storeu_ps(out, scores);
    } else {
      _mm256_mask_storeu_ps(out, static_cast<__mmask8>((1u << count) - 1), scores);
    }
  }
}

static void add_values_to_4_heads(const float* p, const float* values, size_t count, size_t head_dim,
                                  float* y) noexcept {
  for (size_t d = 0; d < head_dim; d += 64) {
    __mmask16 mask[4];
    for (size_t i = 0; i < 4; ++i) {
      const size_t at = d + 16 * i, left = head_dim > at ? head_dim - at : 0;
      mask[i] = static_cast<__mmask16>(left < 16 ? (1u << left) - 1 : 0xFFFF);
    }
    __m512 acc[kHeads][4];
#pragma GCC unroll 4
    for (size_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) acc[h][i] = _mm512_maskz_loadu_ps(mask[i], y + h * head_dim + d + 16 * i);
    }
    for (size_t j = 0; j < count; ++j) {
      __m512 v[4];
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) v[i] = _mm512_maskz_loadu_ps(mask[i], values + j * head_dim + d + 16 * i);
#pragma GCC unroll 4
      for (size_t h = 0; h < kHeads; ++h) {
        const __m512 weight = _mm512_set1_ps(p[h * kBlockSize + j]);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; ++i) acc[h][i] = _mm512_fmadd_ps(weight, v[i], acc[h][i]);
      }
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) _mm512_mask_storeu_ps(y + h * head_dim + d + 16 * i, mask[i], acc[h][i]);
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
