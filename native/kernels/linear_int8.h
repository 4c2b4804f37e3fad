// y[r][o] = x[r] . w[o] for quantised weights and int8 activations. Per output one float accumulator, one update a
// block in ascending K:  acc = fma(d_x, v, acc), where v is the block's value before the activation's scale:
// integer sums, exact, then the few float roundings each format names. See docs/numerics.md.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/formats.h"

#if defined(STEPAHEAD_VECTOR_AVX2) || defined(STEPAHEAD_VECTOR_NEON)
#include "kernels/linear_many.h"
#endif

namespace stepahead::STEPAHEAD_ISA {

template <class Format>
static void linear_int8(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                        const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
#if defined(STEPAHEAD_VECTOR_AVX2) || defined(STEPAHEAD_VECTOR_NEON)
  if constexpr (InLanes<Format>::exists) {
    return linear_in_lanes<Format, PlainTile>(matrix, row_bytes, begin, end, num_in, rows, num_rows, y);
  }
#endif
  constexpr size_t elements = Format::elements;
  for (size_t o = begin; o < end; ++o) {
    const auto* w = reinterpret_cast<const typename Format::Block*>(matrix + o * row_bytes);
    for (size_t r = 0; r < num_rows; ++r) {
      float acc = 0.0f;
      for (size_t b = 0; b < num_in / elements; ++b) {
        const float v = Format::value(w[b], rows[r].q + b * elements, rows[r].sums + b * (elements / 16));
        acc = fma(rows[r].d[b], v, acc);
      }
      y[r][o] = acc;
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
