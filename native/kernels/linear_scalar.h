// The product of linear_int8.h in plain code, for the formats that have no vector twin in a table.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Format>
static void linear_scalar(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                          const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
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
