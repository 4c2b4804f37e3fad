// The scalar twins of attention.h, which includes this file: one query after the other.
#pragma once

#include "kernels/attention.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kBatch = 1;

template <class Type>
static inline void load_row(const uint8_t* row, size_t head_dim, size_t width, float* out) noexcept {
  for (size_t i = 0; i < width; ++i) out[i] = i < head_dim ? Type::load(row + i * Type::bytes) : 0.0f;
}

template <>
inline void load_row<KVQ8_0>(const uint8_t* row, size_t head_dim, size_t, float* out) noexcept {
  const auto* blocks = reinterpret_cast<const BlockQ8_0*>(row);
  for (size_t i = 0; i < head_dim; ++i) {
    out[i] = half_to_float(load_u16(blocks[i / 32].d)) * static_cast<float>(blocks[i / 32].q[i % 32]);
  }
}

template <class Type>
static void load_tile(const Tile& tile) noexcept {
  for (size_t j = 0; j < tile.end - tile.begin; ++j) {
    load_row<Type>(tile.rows + j * tile.row_bytes, tile.head_dim, tile.width, tile.data + j * tile.width);
  }
}

template <class Type>
static void score(Query* const* queries, size_t count, const Tile& keys, float scale) noexcept {
  load_tile<Type>(keys);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = keys.begin; j < keys.end; ++j) {
      const float* k = keys.data + (j - keys.begin) * keys.width;
      float lanes[8] = {};
      for (size_t d = 0; d < keys.width; ++d) lanes[d % 8] = fma(queries[i]->q[d], k[d], lanes[d % 8]);
      queries[i]->s[j] = sum_lanes(lanes) * scale;
    }
  }
}

static void softmax_chunk(Query& query, size_t width) noexcept {
  float* s = query.s;
  float most = query.most, lanes[8] = {};
  for (size_t j = query.begin; j < query.end; ++j) most = s[j] > most ? s[j] : most;
  for (size_t j = query.begin; j < query.end; ++j) {
    s[j] = exp_1(s[j] - most);
    lanes[j % 8] += s[j];
  }
  const float correction = exp_1(query.most - most);
  query.most = most;
  query.total = fma(query.total, correction, sum_lanes(lanes));
  for (size_t d = 0; d < width; ++d) query.y[d] *= correction;
}

template <class Type>
static void add_values(Query* const* queries, size_t count, const Tile& values) noexcept {
  load_tile<Type>(values);
  for (size_t i = 0; i < count; ++i) {
    const Query& query = *queries[i];
    for (size_t j = larger(values.begin, query.begin); j < smaller(values.end, query.end); ++j) {
      const float* v = values.data + (j - values.begin) * values.width;
      for (size_t d = 0; d < values.width; ++d) query.y[d] = fma(query.s[j], v[d], query.y[d]);
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
