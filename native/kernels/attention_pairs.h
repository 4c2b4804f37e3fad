// The twins of attention.h, which includes this file, for AVX2 and NEON: two queries share the loads of keys and
// values.
#pragma once

#include "kernels/attention.h"

#if defined(STEPAHEAD_VECTOR_NEON)
#include "kernels/attention_neon.h"
#else
#include "kernels/attention_avx2.h"
#endif

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kBatch = 2;

template <class Type>
static void load_tile(const Tile& tile) noexcept {
  for (size_t j = 0; j < tile.end - tile.begin; ++j) {
    for (size_t i = 0; i < tile.row_bytes; i += 64) __builtin_prefetch(tile.next + j * tile.row_bytes + i);
    load_row<Type>(tile.rows + j * tile.row_bytes, tile.head_dim, tile.width, tile.data + j * tile.width);
  }
}

template <size_t N>
static STEPAHEAD_INLINE void score_key_group(Query* const* queries, const Tile& keys, size_t j, float scale) noexcept {
#pragma GCC unroll 2
  for (size_t i = 0; i < kKeyGroup; i += keys_beside(N)) score_keys<N>(queries, keys, j + i, scale);
}

template <class Type>
static void score(Query* const* queries, size_t count, const Tile& keys, float scale) noexcept {
  load_tile<Type>(keys);
  for (size_t i = 0; i < count; i += kBatch) {
    for (size_t j = keys.begin; j < keys.end; j += kKeyGroup) {
      if (count - i >= 2) {
        score_key_group<2>(queries + i, keys, j, scale);
      } else {
        score_key_group<1>(queries + i, keys, j, scale);
      }
    }
  }
}

template <size_t N>
static void add_span(Query* const* queries, const Tile& values, size_t begin, size_t end) noexcept {
  if (begin >= end) return;
  size_t d = 0;
  for (; d + 32 <= values.width; d += 32) add_part<N, 32>(queries, values, begin, end, d);
  for (; d < values.width; d += 16) add_part<N, 16>(queries, values, begin, end, d);
}

template <class Type>
static void add_values(Query* const* queries, size_t count, const Tile& values) noexcept {
  load_tile<Type>(values);
  for (size_t i = 0; i < count; i += kBatch) {
    const size_t batch = smaller(count - i, kBatch);
    const Sight sight = sight_of(queries + i, batch, values);
    for (size_t n = i; n < i + batch; ++n) {
      add_span<1>(queries + n, values, larger(values.begin, queries[n]->begin), sight.begin);
    }
    if (batch == 2) {
      add_span<2>(queries + i, values, sight.begin, sight.end);
    } else {
      add_span<1>(queries + i, values, sight.begin, sight.end);
    }
    for (size_t n = i; n < i + batch; ++n) {
      const size_t begin = larger(sight.end, queries[n]->begin);
      add_span<1>(queries + n, values, begin, smaller(values.end, queries[n]->end));
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
