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

#if !defined(STEPAHEAD_VECTOR_AVX2)

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

// O output rows times R activation rows share their loads; each has lanes of its own.
template <class Type, size_t O, size_t R>
static inline void tile_float(const uint8_t* w, size_t row_bytes, size_t num_in, const ActivationRow* rows,
                              float* const* y, size_t at) noexcept {
  __m256 acc[O][R];
  for (size_t o = 0; o < O; ++o) {
    for (size_t r = 0; r < R; ++r) acc[o][r] = _mm256_setzero_ps();
  }
  const size_t whole = num_in & ~size_t{7};
  for (size_t k = 0; k < whole; k += 8) {
    __m256 weights[O];
#pragma GCC unroll 8
    for (size_t o = 0; o < O; ++o) weights[o] = Type::load_8(w + o * row_bytes + k * Type::bytes);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const __m256 x = _mm256_loadu_ps(rows[r].x + k);
#pragma GCC unroll 8
      for (size_t o = 0; o < O; ++o) acc[o][r] = _mm256_fmadd_ps(weights[o], x, acc[o][r]);
    }
  }
  for (size_t o = 0; o < O; ++o) {
    for (size_t r = 0; r < R; ++r) {
      float lanes[8];
      _mm256_storeu_ps(lanes, acc[o][r]);
      dot_into_lanes<Type>(w + o * row_bytes, rows[r].x, whole, num_in, lanes);
      y[r][at + o] = sum_lanes(lanes);
    }
  }
}

template <class Type, size_t O, size_t R>
static inline void rows_float(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                              const ActivationRow* rows, float* const* y) noexcept {
  size_t o = begin;
  for (; o + O <= end; o += O) tile_float<Type, O, R>(matrix + o * row_bytes, row_bytes, num_in, rows, y, o);
  for (; o < end; ++o) tile_float<Type, 1, R>(matrix + o * row_bytes, row_bytes, num_in, rows, y, o);
}

template <class Type>
static void linear_float(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                         const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  // A tile of output rows serves all activation rows while it is in the cache.
  for (size_t o = begin; o < end; o += kTileRows) {
    const size_t stop = end - o < kTileRows ? end : o + kTileRows;
    size_t r = 0;
    for (; r + 4 <= num_rows; r += 4) rows_float<Type, 2, 4>(matrix, row_bytes, o, stop, num_in, rows + r, y + r);
    if (num_rows - r == 3) rows_float<Type, 2, 3>(matrix, row_bytes, o, stop, num_in, rows + r, y + r);
    if (num_rows - r == 2) rows_float<Type, 4, 2>(matrix, row_bytes, o, stop, num_in, rows + r, y + r);
    if (num_rows - r == 1) rows_float<Type, 8, 1>(matrix, row_bytes, o, stop, num_in, rows + r, y + r);
  }
}

#endif

}  // namespace stepahead::STEPAHEAD_ISA
