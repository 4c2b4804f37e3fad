// The product of linear_int8.h for interleaved panels (isa/kernel_table.h): the same bits.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/formats.h"

#if defined(STEPAHEAD_VECTOR_AVX2) || defined(STEPAHEAD_VECTOR_NEON)
#include "kernels/linear_many.h"
#endif

namespace stepahead::STEPAHEAD_ISA {

// Block b of row `lane` of a panel, as it was in the file.
template <class Block>
static inline Block block_of_panel(const TypeInfo& type, const uint8_t* panel, size_t num_blocks, size_t b,
                                   size_t lane) noexcept {
  static_assert(alignof(Block) == 1);
  Block block;
  auto* bytes = reinterpret_cast<uint8_t*>(&block);
  for (size_t c = 0; c < type.dwords(); ++c) {
    memcpy(bytes + type.dwords_at() + 4 * c, panel + 4 * ((b * type.dwords() + c) * kTileRows + lane), 4);
  }
  const uint8_t* rest = panel + 4 * num_blocks * type.dwords() * kTileRows;
  memcpy(bytes + type.rest_at, rest + (b * kTileRows + lane) * type.rest(), type.rest());
  return block;
}

template <class Format>
static void linear_interleaved(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                               const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
#if defined(STEPAHEAD_VECTOR_AVX2) || defined(STEPAHEAD_VECTOR_NEON)
  if constexpr (InLanes<Format>::exists) {
    return linear_in_lanes<Format, PanelTile>(matrix, row_bytes, begin, end, num_in, rows, num_rows, y);
  }
#endif
  constexpr size_t elements = Format::elements;
  for (size_t o = begin; o < end; ++o) {
    const uint8_t* panel = matrix + o / kTileRows * kTileRows * row_bytes;
    for (size_t r = 0; r < num_rows; ++r) y[r][o] = 0.0f;
    for (size_t b = 0; b < num_in / elements; ++b) {
      const auto w = block_of_panel<typename Format::Block>(info(Format::type), panel, num_in / elements, b,
                                                            o % kTileRows);
      for (size_t r = 0; r < num_rows; ++r) {
        const float v = Format::value(w, rows[r].q + b * elements, rows[r].sums + b * (elements / 16));
        y[r][o] = fma(rows[r].d[b], v, y[r][o]);
      }
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
