// Attention of a few rows of one sequence, for the query heads that share a KV head: online softmax over chunks of 64
// keys aligned to absolute position, ascending. Keys that a row does not see never take part in its result: the memory
// there may hold NaN.
//
// Per row and query head, and chunk: scores s_j = (eight-lane dot of q and k_j) * scale; m' = max(m, s_j);
// c = exp(m - m'); p_j = exp(s_j - m'); l = fma(l, c, tree of the p_j in eight lanes by j % 8); y = y * c, then
// y = fma(p_j, v_j, y) in ascending j. At the end y / l.
//
// A tile of keys or values is decoded to float32 once and serves every row and head of the task; while it does, the
// memory that comes next is prefetched. Decoding and arithmetic have twins for each instruction set.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/blocks.h"
#include "kernels/exp.h"

namespace stepahead::STEPAHEAD_ISA {

// Scores are computed for groups of so many keys: of a group that is seen in part, the rest is never looked at.
static constexpr size_t kKeyGroup = 8;

// Rows of the KV cache in Q8_0; d q has at most 19 significant bits, so decoding is exact.
struct KVQ8_0 {};

template <class Type>
static inline size_t kv_row_bytes(size_t head_dim) noexcept {
  return head_dim * Type::bytes;
}
template <>
inline size_t kv_row_bytes<KVQ8_0>(size_t head_dim) noexcept {
  return head_dim / 32 * sizeof(BlockQ8_0);
}

// Keys or values [begin, end) of a chunk, as they lie in the cache, and a place for them as float32.
struct Tile {
  const uint8_t* rows;
  const uint8_t* next;  // the rows of the tile that comes after, to be prefetched
  size_t row_bytes;
  float* data;
  size_t head_dim, width;  // a decoded row is `width` long, zero past head_dim
  size_t begin, end;
};

// One row and query head while the chunks pass. Its vectors are attention_width() long, zero past the head.
struct Query {
  const float* q;
  float* y;
  float* s;           // (kBlockSize,) scores of the chunk, then weights
  size_t begin, end;  // the keys of the chunk that it sees
  float most, total;
};
static_assert(sizeof(Query) + sizeof(Query*) <= kQueryFloats * sizeof(float));

// The part of a tile that all of some queries see; empty if there is none.
struct Sight {
  size_t begin, end;
  bool is_all;
};

static inline size_t smaller(size_t a, size_t b) noexcept { return a < b ? a : b; }
static inline size_t larger(size_t a, size_t b) noexcept { return a > b ? a : b; }

static inline Sight sight_of(const Query* const* queries, size_t count, const Tile& tile) noexcept {
  size_t begin = tile.begin, end = tile.end;
  for (size_t i = 0; i < count; ++i) {
    begin = larger(begin, queries[i]->begin);
    end = smaller(end, queries[i]->end);
  }
  if (begin >= end) return {tile.begin, tile.begin, false};
  return {begin, end, begin == tile.begin && end == tile.end};
}

}  // namespace stepahead::STEPAHEAD_ISA

#if defined(STEPAHEAD_VECTOR_AVX512)
#include "kernels/attention_avx512.h"
#elif defined(STEPAHEAD_VECTOR_AVX2) || defined(STEPAHEAD_VECTOR_NEON)
#include "kernels/attention_pairs.h"
#else
#include "kernels/attention_scalar.h"
#endif

namespace stepahead::STEPAHEAD_ISA {

// The queries that see keys of the chunk which starts at `origin`, and the span [begin, end) of those keys.
struct Seen {
  Query** queries;
  size_t count, begin, end;
};

static bool sees(const AttentionTask& t, size_t row, size_t chunk) noexcept {
  const auto first = static_cast<size_t>(t.first[row]), last = static_cast<size_t>(t.last[row]);
  return first / kBlockSize <= chunk && chunk <= last / kBlockSize;
}

static bool is_seen(const AttentionTask& t, size_t chunk) noexcept {
  for (size_t r = 0; r < t.num_rows; ++r) {
    if (sees(t, r, chunk)) return true;
  }
  return false;
}

static Seen queries_that_see(const AttentionTask& t, size_t chunk, Query* queries, Query** list) noexcept {
  const size_t origin = chunk * kBlockSize;
  Seen seen{list, 0, kBlockSize, 0};
  for (size_t r = 0; r < t.num_rows; ++r) {
    if (!sees(t, r, chunk)) continue;
    const size_t first = static_cast<size_t>(t.first[r]), last = static_cast<size_t>(t.last[r]);
    const size_t begin = first > origin ? first - origin : 0, end = smaller(last - origin + 1, kBlockSize);
    seen.begin = smaller(seen.begin, begin);
    seen.end = larger(seen.end, end);
    for (size_t h = 0; h < t.group; ++h) {
      Query& query = queries[r * t.group + h];
      query.begin = begin;
      query.end = end;
      seen.queries[seen.count++] = &query;
    }
  }
  return seen;
}

static void start(const AttentionTask& t, size_t width, float* vectors, Query* queries) noexcept {
  for (size_t i = 0; i < t.num_rows * t.group; ++i, vectors += 2 * width + kBlockSize) {
    memset(vectors, 0, 2 * width * sizeof(float));
    memcpy(vectors, t.q + i / t.group * t.row_stride + i % t.group * t.head_dim, t.head_dim * sizeof(float));
    queries[i] = {vectors, vectors + width, vectors + 2 * width, 0, 0, -__builtin_inff(), 0.0f};
  }
}

static void finish(const AttentionTask& t, const Query* queries) noexcept {
  for (size_t i = 0; i < t.num_rows * t.group; ++i) {
    float* y = t.y + i / t.group * t.row_stride + i % t.group * t.head_dim;
    for (size_t d = 0; d < t.head_dim; ++d) y[d] = queries[i].y[d] / queries[i].total;
  }
}

template <class Type>
static void attention(const AttentionTask& t) noexcept {
  const size_t num_queries = t.num_rows * t.group, width = attention_width(t.head_dim);
  const size_t row_bytes = kv_row_bytes<Type>(t.head_dim);
  float* tile = t.scratch;
  float* vectors = tile + kTileKeys * width;
  auto* queries = reinterpret_cast<Query*>(vectors + num_queries * (2 * width + kBlockSize));
  auto** list = reinterpret_cast<Query**>(queries + num_queries);
  start(t, width, vectors, queries);
  size_t first = static_cast<size_t>(t.first[0]), last = static_cast<size_t>(t.last[0]);
  for (size_t r = 1; r < t.num_rows; ++r) {
    first = smaller(first, static_cast<size_t>(t.first[r]));
    last = larger(last, static_cast<size_t>(t.last[r]));
  }
  for (size_t chunk = first / kBlockSize; chunk <= last / kBlockSize; ++chunk) {
    if (!is_seen(t, chunk)) continue;
    const Seen seen = queries_that_see(t, chunk, queries, list);
    const size_t offset = static_cast<size_t>(t.table[chunk]) * t.block_stride;
    const uint8_t *keys = t.keys + offset, *values = t.values + offset;
    const bool is_last = chunk == last / kBlockSize || !is_seen(t, chunk + 1);
    const uint8_t* after = is_last ? keys : t.keys + static_cast<size_t>(t.table[chunk + 1]) * t.block_stride;
    for (size_t j = seen.begin / kKeyGroup * kKeyGroup; j < seen.end; j += kTileKeys) {
      const size_t stop = smaller(j + kTileKeys, (seen.end + kKeyGroup - 1) / kKeyGroup * kKeyGroup);
      const uint8_t* rows = keys + j * row_bytes;
      const uint8_t* next = stop < seen.end ? rows + kTileKeys * row_bytes : values;
      score<Type>(seen.queries, seen.count, {rows, next, row_bytes, tile, t.head_dim, width, j, stop}, t.scale);
    }
    for (size_t i = 0; i < seen.count; ++i) softmax_chunk(*seen.queries[i], width);
    for (size_t j = seen.begin; j < seen.end; j += kTileKeys) {
      const size_t stop = smaller(j + kTileKeys, seen.end);
      const uint8_t* rows = values + j * row_bytes;
      const uint8_t* next = stop < seen.end ? rows + kTileKeys * row_bytes : after;
      add_values<Type>(seen.queries, seen.count, {rows, next, row_bytes, tile, t.head_dim, width, j, stop});
    }
  }
  finish(t, queries);
}

}  // namespace stepahead::STEPAHEAD_ISA
