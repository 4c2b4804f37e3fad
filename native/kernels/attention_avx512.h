// The AVX-512 twins of attention.h, which includes this file: four queries share the loads of keys and values. Keys
// lie in pairs, a vector holding eight elements of one beside those of the next, as scores have eight lanes.
#pragma once

#include "kernels/attention.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kBatch = 4;

// Rows of the cache as float32: sixteen elements of one, or eight of each of two.
template <class Type>
struct KVRows {
  static float load(const uint8_t* row, size_t i) noexcept { return Type::load(row + i * Type::bytes); }
  static __m512 load_16(const uint8_t* row, size_t i) noexcept {
    return Type::load_8_and_8(row + i * Type::bytes, row + (i + 8) * Type::bytes);
  }
  static __m512 load_8_and_8(const uint8_t* a, const uint8_t* b, size_t i) noexcept {
    return Type::load_8_and_8(a + i * Type::bytes, b + i * Type::bytes);
  }
};

template <>
struct KVRows<KVQ8_0> {
  static const BlockQ8_0& block(const uint8_t* row, size_t i) noexcept {
    return reinterpret_cast<const BlockQ8_0*>(row)[i / 32];
  }
  static float load(const uint8_t* row, size_t i) noexcept {
    return half_to_float(load_u16(block(row, i).d)) * static_cast<float>(block(row, i).q[i % 32]);
  }
  static __m512 load_16(const uint8_t* row, size_t i) noexcept {
    const __m512 d = _mm512_set1_ps(half_to_float(load_u16(block(row, i).d)));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(block(row, i).q + i % 32))));
  }
  static __m512 load_8_and_8(const uint8_t* a, const uint8_t* b, size_t i) noexcept {
    const auto half = [i](const uint8_t* row) {
      return _mm_set1_epi16(static_cast<int16_t>(load_u16(block(row, i).d)));
    };
    const auto q = [i](const uint8_t* row) {
      return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block(row, i).q + i % 32));
    };
    const __m512 d = _mm512_cvtph_ps(_mm256_set_m128i(half(b), half(a)));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_unpacklo_epi64(q(a), q(b)))));
  }
};

// Where the arithmetic takes its vectors from: the tile; or the cache, filling the tile for those who come later. The
// first queries decode between their own sums, which costs them next to nothing.
struct FromTile {
  static STEPAHEAD_INLINE void prefetch(const Tile&, size_t, size_t, size_t) noexcept {}
  template <class Type>
  static STEPAHEAD_INLINE __m512 pair(const Tile& tile, size_t j, size_t i) noexcept {
    return _mm512_loadu_ps(tile.data + (j - tile.begin) * tile.width + 2 * i);
  }
  template <class Type>
  static STEPAHEAD_INLINE __m512 value(const Tile& tile, size_t j, size_t i) noexcept {
    return _mm512_loadu_ps(tile.data + (j - tile.begin) * tile.width + i);
  }
};

struct FromCache {
  // Of the next tile, `bytes` that lie as those do which begin `at` bytes behind the start of row j in this one.
  static STEPAHEAD_INLINE void prefetch(const Tile& tile, size_t j, size_t at, size_t bytes) noexcept {
    const uint8_t* next = tile.next + (j - tile.begin) * tile.row_bytes + at;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + i);
  }
  template <class Type>
  static STEPAHEAD_INLINE __m512 pair(const Tile& tile, size_t j, size_t i) noexcept {
    const uint8_t* row = tile.rows + (j - tile.begin) * tile.row_bytes;
    const __m512 v = KVRows<Type>::load_8_and_8(row, row + tile.row_bytes, i);
    _mm512_storeu_ps(tile.data + (j - tile.begin) * tile.width + 2 * i, v);
    return v;
  }
  template <class Type>
  static STEPAHEAD_INLINE __m512 value(const Tile& tile, size_t j, size_t i) noexcept {
    const __m512 v = KVRows<Type>::load_16(tile.rows + (j - tile.begin) * tile.row_bytes, i);
    _mm512_storeu_ps(tile.data + (j - tile.begin) * tile.width + i, v);
    return v;
  }
};

template <class Type>
static void load_values(const Tile& tile) noexcept {
  for (size_t j = tile.begin; j < tile.end; ++j) {
    size_t i = 0;
    for (; i + 16 <= tile.head_dim; i += 16) FromCache::value<Type>(tile, j, i);
    const uint8_t* row = tile.rows + (j - tile.begin) * tile.row_bytes;
    for (; i < tile.width; ++i) {
      tile.data[(j - tile.begin) * tile.width + i] = i < tile.head_dim ? KVRows<Type>::load(row, i) : 0.0f;
    }
  }
}

template <class Type>
static void load_keys(const Tile& tile) noexcept {
  for (size_t j = tile.begin; j < tile.end; j += 2) {
    size_t i = 0;
    for (; i + 8 <= tile.head_dim; i += 8) FromCache::pair<Type>(tile, j, i);
    const uint8_t* row = tile.rows + (j - tile.begin) * tile.row_bytes;
    float* pair = tile.data + (j - tile.begin) * tile.width;
    for (; i < tile.width; ++i) {
      pair[2 * (i - i % 8) + i % 8] = i < tile.head_dim ? KVRows<Type>::load(row, i) : 0.0f;
      pair[2 * (i - i % 8) + i % 8 + 8] = i < tile.head_dim ? KVRows<Type>::load(row + tile.row_bytes, i) : 0.0f;
    }
  }
}

// Per 128 bits i the sums of the even and of the odd lanes of key i, then those of key i + 4.
static STEPAHEAD_INLINE __m512 halves_of_lanes(const __m512* pairs) noexcept {
  const auto low_and_high = [](__m512 a, __m512 b) {  // lanes 0-3 and 4-7 of four keys added
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  };
  const __m512d first = _mm512_castps_pd(low_and_high(pairs[0], pairs[1]));
  const __m512d second = _mm512_castps_pd(low_and_high(pairs[2], pairs[3]));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)));
}

// Scores of the eight keys from j on for N queries.
template <class Type, class From, size_t N>
static STEPAHEAD_INLINE void score_group(Query* const* queries, const Tile& keys, size_t j, float scale) noexcept {
  __m512 acc[N + N % 2][4];
  for (auto& of_query : acc) {
    for (__m512& pair : of_query) pair = _mm512_setzero_ps();
  }
  const size_t share = kKeyGroup * 8 * keys.row_bytes / keys.width;
  for (size_t d = 0; d < keys.width; d += 8) {
    From::prefetch(keys, j, d / 8 * share, share);
    __m512 k[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) k[i] = From::template pair<Type>(keys, j + 2 * i, d);
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      const __m512 q = _mm512_broadcast_f32x8(_mm256_loadu_ps(queries[n]->q + d));
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) acc[n][i] = _mm512_fmadd_ps(q, k[i], acc[n][i]);
    }
  }
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (size_t n = 0; n < N; n += 2) {
    const __m512 a = halves_of_lanes(acc[n]), b = halves_of_lanes(acc[n + 1]);
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
    const __m512 scores = _mm512_mul_ps(_mm512_permutexvar_ps(order, sums), _mm512_set1_ps(scale));
    _mm256_storeu_ps(queries[n]->s + j, _mm512_castps512_ps256(scores));
    if (n + 1 < N) _mm256_storeu_ps(queries[n + 1]->s + j, _mm512_extractf32x8_ps(scores, 1));
  }
}

template <class Type, class From, size_t N>
static void score_batch(Query* const* queries, const Tile& keys, float scale) noexcept {
  for (size_t j = keys.begin; j < keys.end; j += kKeyGroup) {
    score_group<Type, From, N>(queries, keys, j, scale);
  }
}

template <class Type, class From>
static void score_batch(Query* const* queries, size_t count, const Tile& keys, float scale) noexcept {
  if (count >= 4) return score_batch<Type, From, 4>(queries, keys, scale);
  if (count == 3) return score_batch<Type, From, 3>(queries, keys, scale);
  if (count == 2) return score_batch<Type, From, 2>(queries, keys, scale);
  score_batch<Type, From, 1>(queries, keys, scale);
}

template <class Type>
static void score(Query* const* queries, size_t count, const Tile& keys, float scale) noexcept {
  size_t i = 0;
  if (keys.width == keys.head_dim) {
    score_batch<Type, FromCache>(queries, count, keys, scale);
    i = kBatch;
  } else {
    load_keys<Type>(keys);
  }
  for (; i < count; i += kBatch) score_batch<Type, FromTile>(queries + i, count - i, keys, scale);
}

static void softmax_chunk(Query& query, size_t width) noexcept {
  const uint64_t sight = (~uint64_t{0} >> (kBlockSize - query.end)) & (~uint64_t{0} << query.begin);
  const auto visible = [=](size_t j) { return static_cast<__mmask16>(sight >> j); };
  const size_t start = query.begin & ~size_t{15};
  __m512 maxima = _mm512_set1_ps(query.most);
  for (size_t j = start; j < query.end; j += 16) {
    // The first operand only where it is greater: NaN never becomes the maximum.
    maxima = _mm512_mask_max_ps(maxima, visible(j), _mm512_loadu_ps(query.s + j), maxima);
  }
  const float most = _mm512_reduce_max_ps(maxima);
  __m256 total = _mm256_setzero_ps();
  for (size_t j = start; j < query.end; j += 16) {
    const __m512 p = exp_16(_mm512_sub_ps(_mm512_loadu_ps(query.s + j), _mm512_set1_ps(most)));
    _mm512_storeu_ps(query.s + j, p);
    const __m512 seen = _mm512_maskz_mov_ps(visible(j), p);  // + 0 changes no lane: they are >= +0 or NaN
    total = _mm256_add_ps(_mm256_add_ps(total, _mm512_castps512_ps256(seen)), _mm512_extractf32x8_ps(seen, 1));
  }
  if (most == query.most) {  // exp(0) is 1
    query.total += sum_lanes(total);
    return;
  }
  const float correction = exp_1(query.most - most);
  query.most = most;
  query.total = fma(query.total, correction, sum_lanes(total));
  const __m512 factor = _mm512_set1_ps(correction);
  for (size_t d = 0; d < width; d += 16) {
    _mm512_storeu_ps(query.y + d, _mm512_mul_ps(_mm512_loadu_ps(query.y + d), factor));
  }
}

// y += p v for the values [begin, end) of the tile, N queries and 16 V elements of their heads from d on.
template <class Type, class From, size_t N, size_t V>
static STEPAHEAD_INLINE void add_part(Query* const* queries, const Tile& values, size_t begin, size_t end,
                                      size_t d) noexcept {
  __m512 acc[N][V];
#pragma GCC unroll 4
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (size_t i = 0; i < V; ++i) acc[n][i] = _mm512_loadu_ps(queries[n]->y + d + 16 * i);
  }
  for (size_t j = begin; j < end; ++j) {
    From::prefetch(values, j, d * values.row_bytes / values.width, 16 * V * values.row_bytes / values.width);
    __m512 v[V];
#pragma GCC unroll 4
    for (size_t i = 0; i < V; ++i) v[i] = From::template value<Type>(values, j, d + 16 * i);
#pragma GCC unroll 4
    for (size_t n = 0; n < N; ++n) {
      const __m512 weight = _mm512_set1_ps(queries[n]->s[j]);
#pragma GCC unroll 4
      for (size_t i = 0; i < V; ++i) acc[n][i] = _mm512_fmadd_ps(weight, v[i], acc[n][i]);
    }
  }
#pragma GCC unroll 4
  for (size_t n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (size_t i = 0; i < V; ++i) _mm512_storeu_ps(queries[n]->y + d + 16 * i, acc[n][i]);
  }
}

template <class Type, class From, size_t N>
static void add_span(Query* const* queries, const Tile& values, size_t begin, size_t end) noexcept {
  size_t d = 0;
  for (; d + 64 <= values.width; d += 64) add_part<Type, From, N, 4>(queries, values, begin, end, d);
  for (; d < values.width; d += 16) add_part<Type, From, N, 1>(queries, values, begin, end, d);
}

template <class Type, class From>
static void add_span(Query* const* queries, size_t count, const Tile& values, size_t begin, size_t end) noexcept {
  if (begin >= end) return;
  if (count >= 4) return add_span<Type, From, 4>(queries, values, begin, end);
  if (count == 3) return add_span<Type, From, 3>(queries, values, begin, end);
  if (count == 2) return add_span<Type, From, 2>(queries, values, begin, end);
  add_span<Type, From, 1>(queries, values, begin, end);
}

template <class Type>
static void add_values(Query* const* queries, size_t count, const Tile& values) noexcept {
  for (size_t i = 0; i < count; i += kBatch) {
    const size_t batch = smaller(count - i, kBatch);
    const Sight sight = sight_of(queries + i, batch, values);
    if (i == 0 && sight.is_all && values.width == values.head_dim) {
      add_span<Type, FromCache>(queries, batch, values, values.begin, values.end);
      continue;
    }
    if (i == 0) load_values<Type>(values);
    for (size_t n = i; n < i + batch; ++n) {
      add_span<Type, FromTile>(queries + n, 1, values, larger(values.begin, queries[n]->begin), sight.begin);
    }
    add_span<Type, FromTile>(queries + i, batch, values, sight.begin, sight.end);
    for (size_t n = i; n < i + batch; ++n) {
      const size_t begin = larger(sight.end, queries[n]->begin);
      add_span<Type, FromTile>(queries + n, 1, values, begin, smaller(values.end, queries[n]->end));
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
