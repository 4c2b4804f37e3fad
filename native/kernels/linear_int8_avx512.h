// The matrix product of linear_int8.h with sixteen output rows as lanes and up to eight activation rows that share
// the unpacked weights.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/formats_avx512.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Format, size_t R>
static void tile_of_lanes(const typename Format::Block* const* w, size_t num_blocks, const ActivationRow* rows,
                          float* const* y, __mmask16 outputs, bool more) noexcept {
  using Block = typename Format::Block;
  __m512 acc[R];
  for (size_t r = 0; r < R; ++r) acc[r] = _mm512_setzero_ps();
  for (size_t b = 0; b < num_blocks; ++b) {
    const BlockColumn<Block> column{w, b, num_blocks, more};
    __m512 v[R];
    InLanes<Format>::template values<R>(column, rows, v);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(rows[r].d[b]), v[r], acc[r]);
  }
  for (size_t r = 0; r < R; ++r) _mm512_mask_storeu_ps(y[r], outputs, acc[r]);
}

template <class Format>
static void linear_int8(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                        const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  using Tile = decltype(&tile_of_lanes<Format, 1>);
  static constexpr Tile tiles[] = {tile_of_lanes<Format, 1>, tile_of_lanes<Format, 2>, tile_of_lanes<Format, 3>,
                                   tile_of_lanes<Format, 4>, tile_of_lanes<Format, 5>, tile_of_lanes<Format, 6>,
                                   tile_of_lanes<Format, 7>, tile_of_lanes<Format, 8>};
  constexpr size_t most = sizeof(tiles) / sizeof(Tile);
  const size_t num_blocks = num_in / Format::elements;
  for (size_t o = begin; o < end; o += kLanes) {
    const size_t n = end - o < kLanes ? end - o : kLanes;
    const typename Format::Block* w[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {  // past the end the last row again: its lanes are not stored
      w[i] = reinterpret_cast<const typename Format::Block*>(matrix + (o + (i < n ? i : n - 1)) * row_bytes);
    }
    for (size_t r = 0; r < num_rows; r += most) {
      const size_t count = num_rows - r < most ? num_rows - r : most;
      float* out[most];
      for (size_t i = 0; i < count; ++i) out[i] = y[r + i] + o;
      const bool more = r == 0 && end - o > kLanes;  // the first pass asks for the next tile, for all
      tiles[count - 1](w, num_blocks, rows + r, out, static_cast<__mmask16>((1u << n) - 1), more);
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
