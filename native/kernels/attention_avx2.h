// What attention_pairs.h, which includes this file, computes with AVX2.
#pragma once

#include "kernels/attention.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Type>
static inline void load_row(const uint8_t* row, size_t head_dim, size_t width, float* out) noexcept {
  size_t i = 0;
  for (; i + 8 <= head_dim; i += 8) _mm256_storeu_ps(out + i, Type::load_8(row + i * Type::bytes));
  for (; i < width; ++i) out[i] = i < head_dim ? Type::load(row + i * Type::bytes) : 0.0f;
}

template <>
inline void load_row<KVQ8_0>(const uint8_t* row, size_t head_dim, size_t, float* out) noexcept {
  const auto* blocks = reinterpret_cast<const BlockQ8_0*>(row);
  for (size_t b = 0; b < head_dim / 32; ++b) {
    const __m256 d = _mm256_set1_ps(half_to_float(load_u16(blocks[b].d)));
#pragma GCC unroll 4
    for (size_t i = 0; i < 32; i += 8) {
      const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(blocks[b].q + i));
      _mm256_storeu_ps(out + 32 * b + i, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
    }
  }
}

// Keys whose scores for N queries are computed at a time: eight sums of eight lanes.
static constexpr size_t keys_beside(size_t N) noexcept { return 8 / N; }

// Scores of so many keys from j on.
template <size_t N>
static STEPAHEAD_INLINE void score_keys(Query* const* queries, const Tile& keys, size_t j, float scale) noexcept {
  constexpr size_t num_keys = keys_beside(N);
  const float* k = keys.data + (j - keys.begin) * keys.width;
  __m256 acc[N][num_keys];
  for (auto& of_query : acc) {
    for (__m256& lanes : of_query) lanes = _mm256_setzero_ps();
  }
  for (size_t d = 0; d < keys.width; d += 8) {
    __m256 q[N];
#pragma GCC unroll 2
    for (size_t n = 0; n < N; ++n) q[n] = _mm256_loadu_ps(queries[n]->q + d);
#pragma GCC unroll 8
    for (size_t i = 0; i < num_keys; ++i) {
      const __m256 key = _mm256_loadu_ps(k + i * keys.width + d);
#pragma GCC unroll 2
      for (size_t n = 0; n < N; ++n) acc[n][i] = _mm256_fmadd_ps(q[n], key, acc[n][i]);
    }
  }
  alignas(32) float scores[N][num_keys];
  _mm256_store_ps(scores[0], _mm256_mul_ps(sum_lanes_of_8(acc[0]), _mm256_set1_ps(scale)));
  for (size_t n = 0; n < N; ++n) memcpy(queries[n]->s + j, scores[n], sizeof(scores[n]));
}

static void softmax_chunk(Query& query, size_t width) noexcept {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i before = _mm256_set1_epi32(static_cast<int>(query.begin) - 1);
  const __m256i after = _mm256_set1_epi32(static_cast<int>(query.end));
  const auto visible = [=](size_t j) {  // lanes of [j, j + 8) that lie in [begin, end)
    const __m256i at = _mm256_add_epi32(index, _mm256_set1_epi32(static_cast<int>(j)));
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(at, before), _mm256_cmpgt_epi32(after, at)));
  };
  const size_t start = query.begin & ~size_t{7};
  const __m256 nothing = _mm256_set1_ps(-__builtin_inff());
  __m256 maxima = _mm256_set1_ps(query.most);
  for (size_t j = start; j < query.end; j += 8) {
    // The first operand only where it is greater: NaN never becomes the maximum.
    maxima = _mm256_max_ps(_mm256_blendv_ps(nothing, _mm256_loadu_ps(query.s + j), visible(j)), maxima);
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, maxima);
  float most = lanes[0];
  for (const float lane : lanes) most = lane > most ? lane : most;
  __m256 total = _mm256_setzero_ps();
  for (size_t j = start; j < query.end; j += 8) {
    const __m256 p = exp_8(_mm256_sub_ps(_mm256_loadu_ps(query.s + j), _mm256_set1_ps(most)));
    _mm256_storeu_ps(query.s + j, p);
    total = _mm256_add_ps(total, _mm256_and_ps(p, visible(j)));  // + 0 changes no lane: they are >= +0 or NaN
  }
  if (most == query.most) {  // exp(0) is 1
    query.total += sum_lanes(total);
    return;
  }
  const float correction = exp_1(query.most - most);
  query.most = most;
  query.total = fma(query.total, correction, sum_lanes(total));
  const __m256 factor = _mm256_set1_ps(correction);
  for (size_t d = 0; d < width; d += 8) {
    _mm256_storeu_ps(query.y + d, _mm256_mul_ps(_mm256_loadu_ps(query.y + d), factor));
  }
}

// y += p v for the values [begin, end) of the tile, N queries and `part` elements of their heads from d on.
template <size_t N, size_t part>
static STEPAHEAD_INLINE void add_part(Query* const* queries, const Tile& values, size_t begin, size_t end,
                                      size_t d) noexcept {
  constexpr size_t V = part / 8;
  __m256 acc[N][V];
#pragma GCC unroll 4
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (size_t i = 0; i < V; ++i) acc[n][i] = _mm256_loadu_ps(queries[n]->y + d + 8 * i);
  }
  for (size_t j = begin; j < end; ++j) {
    const float* row = values.data + (j - values.begin) * values.width + d;
    __m256 v[V];
#pragma GCC unroll 4
    for (size_t i = 0; i < V; ++i) v[i] = _mm256_loadu_ps(row + 8 * i);
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      const __m256 weight = _mm256_broadcast_ss(queries[n]->s + j);
#pragma GCC unroll 4
      for (size_t i = 0; i < V; ++i) acc[n][i] = _mm256_fmadd_ps(weight, v[i], acc[n][i]);
    }
  }
#pragma GCC unroll 4
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (size_t i = 0; i < V; ++i) _mm256_storeu_ps(queries[n]->y + d + 8 * i, acc[n][i]);
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
