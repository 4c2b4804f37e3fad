// y[r][o] = x[r] . w[o] for F32, F16 and BF16 weights and float32 activations: eight virtual lanes along K,
// lane[k % 8] = fma(w, x, lane[k % 8]) in ascending k, then the tree of sum_lanes.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Type>
static inline void dot_into_lanes(const uint8_t* w, const float* x, size_t begin, size_t end, float* lanes) noexcept {
  for (size_t k = begin; k < end; ++k) lanes[k % 8] = fma(Type::load(w + k * Type::bytes), x[k], lanes[k % 8]);
}

#if !defined(STEPAHEAD_VECTOR_AVX2) && !defined(STEPAHEAD_VECTOR_NEON)

template <class Type>
static void linear_float(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                         const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  for (size_t o = begin; o < end; ++o) {
    for (size_t r = 0; r < num_rows; ++r) {
      float lanes[8] = {};
      dot_into_lanes<Type>(matrix + o * row_bytes, rows[r].x, 0, num_in, lanes);
      y[r][o] = sum_lanes(lanes);
    }
  }
}

#else

// The eight lanes of one output.
#if defined(STEPAHEAD_VECTOR_NEON)
struct LanesOf1 {
  static constexpr size_t outputs = 1;
  float32x4_t low, high;
  static LanesOf1 zero() noexcept { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
  template <class Type>
  static LanesOf1 weights(const uint8_t* w, size_t) noexcept {
    const Eight x = Type::load_8(w);
    return {x.low, x.high};
  }
  static LanesOf1 activations(const float* x) noexcept { return {vld1q_f32(x), vld1q_f32(x + 4)}; }
  void add_product(const LanesOf1& w, const LanesOf1& x) noexcept {
    low = vfmaq_f32(low, w.low, x.low);
    high = vfmaq_f32(high, w.high, x.high);
  }
  void store(float* out) const noexcept { vst1q_f32(out, low), vst1q_f32(out + 4, high); }
};
#else
struct LanesOf1 {
  static constexpr size_t outputs = 1;
  __m256 lanes;
  static LanesOf1 zero() noexcept { return {_mm256_setzero_ps()}; }
  template <class Type>
  static LanesOf1 weights(const uint8_t* w, size_t) noexcept {
    return {Type::load_8(w)};
  }
  static LanesOf1 activations(const float* x) noexcept { return {_mm256_loadu_ps(x)}; }
  void add_product(LanesOf1 w, LanesOf1 x) noexcept { lanes = _mm256_fmadd_ps(w.lanes, x.lanes, lanes); }
  void store(float* out) const noexcept { _mm256_storeu_ps(out, lanes); }
};
#endif

#if defined(STEPAHEAD_VECTOR_AVX512)

// Of two neighbouring outputs.
struct LanesOf2 {
  static constexpr size_t outputs = 2;
  __m512 lanes;
  static LanesOf2 zero() noexcept { return {_mm512_setzero_ps()}; }
  template <class Type>
  static LanesOf2 weights(const uint8_t* w, size_t row_bytes) noexcept {
    return {Type::load_8_and_8(w, w + row_bytes)};
  }
  static LanesOf2 activations(const float* x) noexcept { return {_mm512_broadcast_f32x8(_mm256_loadu_ps(x))}; }
  void add_product(LanesOf2 w, LanesOf2 x) noexcept { lanes = _mm512_fmadd_ps(w.lanes, x.lanes, lanes); }
  void store(float* out) const noexcept { _mm512_storeu_ps(out, lanes); }
};

using WidestLanes = LanesOf2;
static constexpr size_t kMostRows = 6;
// Vectors of weights beside r activation rows: what the registers hold.
static constexpr size_t vectors_beside(size_t) noexcept { return 4; }

#else

using WidestLanes = LanesOf1;
static constexpr size_t kMostRows = 4;
#if defined(STEPAHEAD_VECTOR_NEON)
static constexpr size_t vectors_beside(size_t r) noexcept { return r >= 3 ? 2 : 4; }
#else
static constexpr size_t vectors_beside(size_t r) noexcept { return r >= 3 ? 2 : r == 2 ? 4 : 8; }
#endif

#endif

// V vectors of outputs times R activation rows share their loads; each has lanes of its own. So many streams are more
// than the hardware prefetchers follow: as many bytes of the next outputs are asked for, in the order they lie.
template <class Type, class Lanes, size_t V, size_t R>
static inline void tile_float(const uint8_t* w, size_t row_bytes, size_t num_in, const ActivationRow* rows,
                              float* const* y, size_t at, const uint8_t* next) noexcept {
  constexpr size_t bytes = 8 * V * Lanes::outputs * Type::bytes;  // of weights a step
  Lanes acc[V][R];
#pragma GCC unroll 8
  for (size_t v = 0; v < V; ++v) {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) acc[v][r] = Lanes::zero();
  }
  const size_t whole = num_in & ~size_t{7};
  for (size_t k = 0; k < whole; k += 8) {
    for (size_t i = 0; next != nullptr && i < bytes; i += 64) {
      __builtin_prefetch(next + k / 8 * bytes + i);
    }
    Lanes weights[V];
#pragma GCC unroll 8
    for (size_t v = 0; v < V; ++v) {
      weights[v] = Lanes::template weights<Type>(w + v * Lanes::outputs * row_bytes + k * Type::bytes, row_bytes);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const Lanes x = Lanes::activations(rows[r].x + k);
#pragma GCC unroll 8
      for (size_t v = 0; v < V; ++v) acc[v][r].add_product(weights[v], x);
    }
  }
  float lanes[V][R][8 * Lanes::outputs];
#pragma GCC unroll 8
  for (size_t v = 0; v < V; ++v) {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) acc[v][r].store(lanes[v][r]);
  }
  for (size_t v = 0; v < V; ++v) {
    for (size_t r = 0; r < R; ++r) {
      for (size_t i = 0; i < Lanes::outputs; ++i) {
        const size_t o = v * Lanes::outputs + i;
        dot_into_lanes<Type>(w + o * row_bytes, rows[r].x, whole, num_in, lanes[v][r] + 8 * i);
        y[r][at + o] = sum_lanes(lanes[v][r] + 8 * i);
      }
    }
  }
}

template <class Type, size_t R>
static void rows_float(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                       const ActivationRow* rows, float* const* y, bool more) noexcept {
  constexpr size_t vectors = vectors_beside(R), outputs = vectors * WidestLanes::outputs;
  size_t o = begin;
  for (; o + outputs <= end; o += outputs) {
    const uint8_t* w = matrix + o * row_bytes;
    const uint8_t* next = more || o + 2 * outputs <= end ? w + outputs * row_bytes : nullptr;
    tile_float<Type, WidestLanes, vectors, R>(w, row_bytes, num_in, rows, y, o, next);
  }
  for (; o < end; ++o) {
    tile_float<Type, LanesOf1, 1, R>(matrix + o * row_bytes, row_bytes, num_in, rows, y, o, nullptr);
  }
}

// R rows, or the next smaller number until it is `count`
template <class Type, size_t R>
static void up_to_rows_float(size_t count, const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end,
                             size_t num_in, const ActivationRow* rows, float* const* y, bool more) noexcept {
  if constexpr (R > 1) {
    if (count < R) return up_to_rows_float<Type, R - 1>(count, matrix, row_bytes, begin, end, num_in, rows, y, more);
  }
  rows_float<Type, R>(matrix, row_bytes, begin, end, num_in, rows, y, more);
}

template <class Type>
static void linear_float(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                         const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  // A tile of output rows serves all activation rows while it is in the cache.
  for (size_t o = begin; o < end; o += kTileRows) {
    const size_t stop = end - o < kTileRows ? end : o + kTileRows;
    for (size_t r = 0; r < num_rows; r += kMostRows) {
      const bool more = r == 0 && stop < end;  // the first pass asks for the next tile, for all
      up_to_rows_float<Type, kMostRows>(num_rows - r, matrix, row_bytes, o, stop, num_in, rows + r, y + r, more);
    }
  }
}

#endif

}  // namespace stepahead::STEPAHEAD_ISA
