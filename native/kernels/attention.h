// Attention of one row for the query heads that share a KV head: online softmax over chunks of 64 keys aligned to
// absolute position, ascending. Keys outside [first, last] are never read into a result: memory there may be NaN.
//
// Per chunk: scores s_j = (eight-lane dot of q and k_j) * scale; m' = max(m, s_j); c = exp(m - m');
// p_j = exp(s_j - m'); l = fma(l, c, tree of the p_j in eight lanes by j % 8); y = y * c, then y = fma(p_j, v_j, y)
// in ascending j. At the end y / l.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/blocks.h"
#include "kernels/exp.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kTileKeys = 8;

// Rows of 32-element Q8_0 blocks; d q has at most 19 significant bits, so decoding is exact.
struct KVQ8_0 {};

template <class Type>
struct KVRow {
  static size_t bytes(size_t head_dim) noexcept { return head_dim * Type::bytes; }
  static void load(const uint8_t* row, size_t head_dim, float* out) noexcept {
    size_t i = 0;
#if defined(STEPAHEAD_VECTOR_AVX2)
    for (; i + 8 <= head_dim; i += 8) _mm256_storeu_ps(out + i, Type::load_8(row + i * Type::bytes));
#endif
    for (; i < head_dim; ++i) out[i] = Type::load(row + i * Type::bytes);
  }
};

template <>
struct KVRow<KVQ8_0> {
  static size_t bytes(size_t head_dim) noexcept { return head_dim / 32 * sizeof(BlockQ8_0); }
  static void load(const uint8_t* row, size_t head_dim, float* out) noexcept {
    const auto* blocks = reinterpret_cast<const BlockQ8_0*>(row);
    for (size_t b = 0; b < head_dim / 32; ++b) {
      const float d = half_to_float(load_u16(blocks[b].d));
      for (size_t i = 0; i < 32; ++i) out[32 * b + i] = d * static_cast<float>(blocks[b].q[i]);
    }
  }
};

// Keys [begin, end) of a chunk as float32 rows in `tile`, key `begin` first.
template <class Type>
static inline void load_tile(const uint8_t* chunk, size_t begin, size_t end, size_t head_dim, float* tile) noexcept {
  const size_t bytes = KVRow<Type>::bytes(head_dim);
  for (size_t j = begin; j < end; ++j) KVRow<Type>::load(chunk + j * bytes, head_dim, tile + (j - begin) * head_dim);
}

// State of one query head while the chunks pass.
struct SoftmaxState {
  float most, total;
};

#if !defined(STEPAHEAD_VECTOR_AVX2)

static void score_tile(const float* q, const float* keys, size_t count, size_t head_dim, float scale,
                       float* s) noexcept {
  for (size_t j = 0; j < count; ++j) {
    float lanes[8] = {};
    for (size_t d = 0; d < head_dim; ++d) lanes[d % 8] = fma(q[d], keys[j * head_dim + d], lanes[d % 8]);
    s[j] = sum_lanes(lanes) * scale;
  }
}

// Scores s[begin, end) to weights; returns the factor for what was gathered so far.
static float softmax_chunk(float* s, size_t begin, size_t end, SoftmaxState& state) noexcept {
  float most = state.most, lanes[8] = {};
  for (size_t j = begin; j < end; ++j) most = s[j] > most ? s[j] : most;
  for (size_t j = begin; j < end; ++j) {
    s[j] = exp_1(s[j] - most);
    lanes[j % 8] += s[j];
  }
  const float correction = exp_1(state.most - most);
  state = {most, fma(state.total, correction, sum_lanes(lanes))};
  return correction;
}

static void add_values(const float* p, const float* values, size_t count, size_t head_dim, float* y) noexcept {
  for (size_t j = 0; j < count; ++j) {
    for (size_t d = 0; d < head_dim; ++d) y[d] = fma(p[j], values[j * head_dim + d], y[d]);
  }
}

#else

static void score_tile(const float* q, const float* keys, size_t count, size_t head_dim, float scale,
                       float* s) noexcept {
  const float* k[kTileKeys];  // past the end the last key again: its scores are not stored
  for (size_t j = 0; j < kTileKeys; ++j) k[j] = keys + (j < count ? j : count - 1) * head_dim;
  __m256 acc[kTileKeys];
  for (size_t j = 0; j < kTileKeys; ++j) acc[j] = _mm256_setzero_ps();
  const size_t whole = head_dim & ~size_t{7};
  for (size_t d = 0; d < whole; d += 8) {
    const __m256 v = _mm256_loadu_ps(q + d);
#pragma GCC unroll 8
    for (size_t j = 0; j < kTileKeys; ++j) acc[j] = _mm256_fmadd_ps(v, _mm256_loadu_ps(k[j] + d), acc[j]);
  }
  alignas(32) float sums[kTileKeys];
  _mm256_store_ps(sums, sum_lanes_of_8(acc));
  for (size_t j = 0; j < count && whole != head_dim; ++j) {
    float lanes[8];
    _mm256_storeu_ps(lanes, acc[j]);
    for (size_t d = whole; d < head_dim; ++d) lanes[d % 8] = fma(q[d], k[j][d], lanes[d % 8]);
    sums[j] = sum_lanes(lanes);
  }
  for (size_t j = 0; j < count; ++j) s[j] = sums[j] * scale;
}

static float softmax_chunk(float* s, size_t begin, size_t end, SoftmaxState& state) noexcept {
  const size_t start = begin & ~size_t{7};
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const auto visible = [=](size_t j) {  // lanes of [j, j + 8) that lie in [begin, end)
    const __m256i at = _mm256_add_epi32(index, _mm256_set1_epi32(static_cast<int>(j)));
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(static_cast<int>(begin) - 1)),
                                                _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), at)));
  };
  const __m256 nothing = _mm256_set1_ps(-__builtin_inff());
  __m256 maxima = _mm256_set1_ps(state.most);
  for (size_t j = start; j < end; j += 8) {
    // The first operand only where it is greater: NaN never becomes the maximum.
    maxima = _mm256_max_ps(_mm256_blendv_ps(nothing, _mm256_loadu_ps(s + j), visible(j)), maxima);
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, maxima);
  float most = lanes[0];
  for (const float lane : lanes) most = lane > most ? lane : most;
  __m256 total = _mm256_setzero_ps();
  for (size_t j = start; j < end; j += 8) {
    const __m256 p = exp_8(_mm256_sub_ps(_mm256_loadu_ps(s + j), _mm256_set1_ps(most)));
    _mm256_storeu_ps(s + j, p);
    total = _mm256_add_ps(total, _mm256_and_ps(p, visible(j)));  // + 0 changes no lane: they are >= +0 or NaN
  }
  const float correction = exp_1(state.most - most);
  state = {most, fma(state.total, correction, sum_lanes(total))};
  return correction;
}

static void add_values(const float* p, const float* values, size_t count, size_t head_dim, float* y) noexcept {
  size_t d = 0;
  for (; d + 32 <= head_dim; d += 32) {
    __m256 acc[4];
    for (size_t i = 0; i < 4; ++i) acc[i] = _mm256_loadu_ps(y + d + 8 * i);
    for (size_t j = 0; j < count; ++j) {
      const __m256 weight = _mm256_broadcast_ss(p + j);
      const float* v = values + j * head_dim + d;
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) acc[i] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(v + 8 * i), acc[i]);
    }
    for (size_t i = 0; i < 4; ++i) _mm256_storeu_ps(y + d + 8 * i, acc[i]);
  }
  for (; d < head_dim; ++d) {
    for (size_t j = 0; j < count; ++j) y[d] = fma(p[j], values[j * head_dim + d], y[d]);
  }
}

#endif

#if defined(STEPAHEAD_VECTOR_AVX512)
}  // namespace stepahead::STEPAHEAD_ISA
#include "kernels/attention_avx512.h"
namespace stepahead::STEPAHEAD_ISA {
#endif

// Scores of `count` keys for every head, s (group, kBlockSize)
static void score_heads(const AttentionTask& t, const float* keys, size_t count, float* s) noexcept {
  size_t h = 0;
#if defined(STEPAHEAD_VECTOR_AVX512)
  // Whole lanes and tiles: `keys` has room for a tile, and what lies past `count` is not stored.
  for (; t.head_dim % 8 == 0 && h + kHeads <= t.group; h += kHeads) {
    score_4_heads(t.q + h * t.head_dim, keys, count, t.head_dim, t.scale, s + h * kBlockSize);
  }
#endif
  for (; h < t.group; ++h) score_tile(t.q + h * t.head_dim, keys, count, t.head_dim, t.scale, s + h * kBlockSize);
}

// y of every head += its weights p (group, kBlockSize) times `count` values
static void add_values_to_heads(const AttentionTask& t, const float* p, const float* values, size_t count) noexcept {
  size_t h = 0;
#if defined(STEPAHEAD_VECTOR_AVX512)
  for (; h + kHeads <= t.group; h += kHeads) {
    add_values_to_4_heads(p + h * kBlockSize, values, count, t.head_dim, t.y + h * t.head_dim);
  }
#endif
  for (; h < t.group; ++h) add_values(p + h * kBlockSize, values, count, t.head_dim, t.y + h * t.head_dim);
}

template <class Type>
static void attention(const AttentionTask& t) noexcept {
  auto* states = reinterpret_cast<SoftmaxState*>(t.scratch);
  float* s = t.scratch + 2 * t.group;            // (group, kBlockSize)
  float* tile = s + t.group * kBlockSize;        // (kTileKeys, head_dim)
  for (size_t h = 0; h < t.group; ++h) states[h] = {-__builtin_inff(), 0.0f};
  memset(t.y, 0, t.group * t.head_dim * sizeof(float));
  for (size_t chunk = t.first / kBlockSize; chunk <= t.last / kBlockSize; ++chunk) {
    const size_t offset = static_cast<size_t>(t.table[chunk]) * t.block_stride, origin = chunk * kBlockSize;
    const size_t begin = t.first > origin ? t.first - origin : 0;
    const size_t end = t.last - origin < kBlockSize ? t.last - origin + 1 : kBlockSize;
    for (size_t j = begin; j < end; j += kTileKeys) {
      const size_t stop = j + kTileKeys < end ? j + kTileKeys : end;
      load_tile<Type>(t.keys + offset, j, stop, t.head_dim, tile);
      score_heads(t, tile, stop - j, s + j);
    }
    for (size_t h = 0; h < t.group; ++h) {
      const float correction = softmax_chunk(s + h * kBlockSize, begin, end, states[h]);
      for (size_t d = 0; d < t.head_dim; ++d) t.y[h * t.head_dim + d] *= correction;
    }
    for (size_t j = begin; j < end; j += kTileKeys) {
      const size_t stop = j + kTileKeys < end ? j + kTileKeys : end;
      load_tile<Type>(t.values + offset, j, stop, t.head_dim, tile);
      add_values_to_heads(t, s + j, tile, stop - j);
    }
  }
  for (size_t h = 0; h < t.group; ++h) {
    for (size_t d = 0; d < t.head_dim; ++d) t.y[h * t.head_dim + d] /= states[h].total;
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
