// What attention_pairs.h, which includes this file, computes with NEON.
#pragma once

#include "kernels/attention.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Type>
static inline void load_row(const uint8_t* row, size_t head_dim, size_t width, float* out) noexcept {
  size_t i = 0;
  for (; i + 8 <= head_dim; i += 8) store_eight(out + i, Type::load_8(row + i * Type::bytes));
  for (; i < width; ++i) out[i] = i < head_dim ? Type::load(row + i * Type::bytes) : 0.0f;
}

template <>
inline void load_row<KVQ8_0>(const uint8_t* row, size_t head_dim, size_t, float* out) noexcept {
  const auto* blocks = reinterpret_cast<const BlockQ8_0*>(row);
  for (size_t b = 0; b < head_dim / 32; ++b) {
    const float d = half_to_float(load_u16(blocks[b].d));
    for (size_t i = 0; i < 32; ++i) out[32 * b + i] = d * static_cast<float>(blocks[b].q[i]);
  }
}

// Keys whose scores are computed at a time.
static constexpr size_t keys_beside(size_t) noexcept { return 4; }

// The trees of four times eight lanes.
static STEPAHEAD_INLINE float32x4_t sum_lanes_of_4(const float32x4_t (*lanes)[2]) noexcept {
  float64x2_t half[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) half[i] = vreinterpretq_f64_f32(vaddq_f32(lanes[i][0], lanes[i][1]));
  const auto quarters = [](float64x2_t a, float64x2_t b) {
    return vaddq_f32(vreinterpretq_f32_f64(vtrn1q_f64(a, b)), vreinterpretq_f32_f64(vtrn2q_f64(a, b)));
  };
  return vpaddq_f32(quarters(half[0], half[1]), quarters(half[2], half[3]));
}

// Scores of the four keys from j on for N queries.
template <size_t N>
static STEPAHEAD_INLINE void score_keys(Query* const* queries, const Tile& keys, size_t j, float scale) noexcept {
  const float* k = keys.data + (j - keys.begin) * keys.width;
  float32x4_t acc[N][4][2];
#pragma GCC unroll 2
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) acc[n][i][0] = acc[n][i][1] = vdupq_n_f32(0.0f);
  }
  for (size_t d = 0; d < keys.width; d += 8) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      const float* key = k + i * keys.width + d;
#pragma GCC unroll 2
      for (size_t n = 0; n < N; ++n) {
        acc[n][i][0] = vfmaq_f32(acc[n][i][0], vld1q_f32(queries[n]->q + d), vld1q_f32(key));
        acc[n][i][1] = vfmaq_f32(acc[n][i][1], vld1q_f32(queries[n]->q + d + 4), vld1q_f32(key + 4));
      }
    }
  }
#pragma GCC unroll 2
  for (size_t n = 0; n < N; ++n) vst1q_f32(queries[n]->s + j, vmulq_n_f32(sum_lanes_of_4(acc[n]), scale));
}

static void softmax_chunk(Query& query, size_t width) noexcept {
  float* s = query.s;
  const size_t start = query.begin & ~size_t{7}, stop = (query.end + 7) & ~size_t{7};
  for (size_t j = start; j < query.begin; ++j) s[j] = -__builtin_inff();  // exp gives 0, which changes no sum
  for (size_t j = query.end; j < stop; ++j) s[j] = -__builtin_inff();
  float32x4_t maxima = vdupq_n_f32(query.most);
  for (size_t j = start; j < stop; j += 4) maxima = vmaxnmq_f32(maxima, vld1q_f32(s + j));  // a number beside a NaN
  const float most = vmaxnmvq_f32(maxima);
  for (size_t j = start; j < stop; ++j) s[j] = exp_1(s[j] - most);
  Eight total = zero_eight();
  for (size_t j = start; j < stop; j += 8) {
    total.low = vaddq_f32(total.low, vld1q_f32(s + j));
    total.high = vaddq_f32(total.high, vld1q_f32(s + j + 4));
  }
  float lanes[8];
  store_eight(lanes, total);
  if (most == query.most) {  // exp(0) is 1
    query.total += sum_lanes(lanes);
    return;
  }
  const float correction = exp_1(query.most - most);
  query.most = most;
  query.total = fma(query.total, correction, sum_lanes(lanes));
  for (size_t d = 0; d < width; ++d) query.y[d] *= correction;
}

// y += p v for the values [begin, end) of the tile, N queries and `part` elements of their heads from d on.
template <size_t N, size_t part>
static STEPAHEAD_INLINE void add_part(Query* const* queries, const Tile& values, size_t begin, size_t end,
                                      size_t d) noexcept {
  constexpr size_t V = part / 4;
  float32x4_t acc[N][V];
#pragma GCC unroll 2
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 8
    for (size_t i = 0; i < V; ++i) acc[n][i] = vld1q_f32(queries[n]->y + d + 4 * i);
  }
  for (size_t j = begin; j < end; ++j) {
    const float* row = values.data + (j - values.begin) * values.width + d;
#pragma GCC unroll 8
    for (size_t i = 0; i < V; ++i) {
      const float32x4_t v = vld1q_f32(row + 4 * i);
#pragma GCC unroll 2
      for (size_t n = 0; n < N; ++n) acc[n][i] = vfmaq_n_f32(acc[n][i], v, queries[n]->s[j]);
    }
  }
#pragma GCC unroll 2
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 8
    for (size_t i = 0; i < V; ++i) vst1q_f32(queries[n]->y + d + 4 * i, acc[n][i]);
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
