// The product of linear_int8.h with kLanes output rows side by side: a lane's sums are those of one output, so that
// nothing is added up across lanes, and what is unpacked serves up to kRowsAtOnce activation rows.
#pragma once

#include "kernels/formats_lanes.h"
#include "kernels/formats_lanes_256.h"
#include "kernels/formats_lanes_32.h"

namespace stepahead::STEPAHEAD_ISA {

// The sink of a decoder that multiplies what it is given with block b of R activation rows.
template <class Format, size_t R>
struct Products {
  using Lanes = InLanes<Format>;
  const ActivationRow* rows;
  size_t b;
  Floats* acc;
  Dwords sum[R], minimum[R];

  STEPAHEAD_INLINE Products(const ActivationRow* activations, size_t block, Floats* out) noexcept
      : rows(activations), b(block), acc(out) {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) sum[r] = minimum[r] = zero_dwords();
  }

  template <class Weights>
  STEPAHEAD_INLINE void sub_block(int j, Scale scale, const Weights& weights) noexcept {
    const size_t k = b * Format::elements + 4 * Lanes::dwords * static_cast<size_t>(j);
    add_products<Lanes::lowest, Lanes::highest, R, Lanes::dwords, Lanes::scaled>(sum, scale, rows, k, weights);
  }

  STEPAHEAD_INLINE void sums(int j, Dwords words) noexcept {
    Dwords* to = Lanes::has_mins ? minimum : sum;
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const int16_t* x = rows[r].sums + b * (Format::elements / 16) + 2 * j;
      to[r] = add_word_products(to[r], words, broadcast_dword(x));
    }
  }

  STEPAHEAD_INLINE void scales(Floats d) noexcept {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) add_value(r, multiply(d, to_floats(sum[r])));
  }

  STEPAHEAD_INLINE void scales(Floats d, Floats dmin) noexcept {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      add_value(r, minus_fma(dmin, to_floats(minimum[r]), multiply(d, to_floats(sum[r]))));
    }
  }

  STEPAHEAD_INLINE void add_value(size_t r, Floats v) noexcept { acc[r] = fma(splat_float(rows[r].d[b]), v, acc[r]); }
};

// kLanes rows of a plain matrix.
template <class Format>
struct PlainTile {
  static constexpr bool interleaved = false;
  static constexpr size_t parts = 1;
  const typename Format::Block* rows[kLanes];
  size_t num_blocks, num_out;
  bool more;

  PlainTile(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t blocks) noexcept
      : num_blocks(blocks), num_out(end - begin < kLanes ? end - begin : kLanes), more(end - begin > kLanes) {
    for (size_t i = 0; i < kLanes; ++i) {  // past the end the last row again: its lanes are not stored
      const size_t row = begin + (i < num_out ? i : num_out - 1);
      rows[i] = reinterpret_cast<const typename Format::Block*>(matrix + row * row_bytes);
    }
  }

  STEPAHEAD_INLINE PlainColumn<Format> column(size_t b, size_t) const noexcept { return {rows, b, num_blocks, more}; }
};

// A panel of an interleaved matrix, in narrow vectors several parts of it.
template <class Format>
struct PanelTile {
  static constexpr bool interleaved = true;
  static constexpr size_t parts = kTileRows / kLanes, num_out = kLanes;
  static constexpr const TypeInfo& type = info(Format::type);
  const uint8_t *panel, *rest;
  bool more;

  PanelTile(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t blocks) noexcept
      : panel(matrix + begin * row_bytes),
        rest(panel + kTileRows * type.dwords() * 4 * blocks),
        more(end - begin > kTileRows) {}

  STEPAHEAD_INLINE PanelColumn<Format> column(size_t b, size_t part) const noexcept {
    const size_t lane = part * kLanes;
    return {panel + 4 * (kTileRows * type.dwords() * b + lane), rest + (kTileRows * b + lane) * type.rest(), part};
  }
};

template <class Format, class Tile, size_t R>
static void multiply_tile(const Tile& tile, size_t num_blocks, const ActivationRow* rows, float* const* y) noexcept {
  Floats acc[Tile::parts][R];
  for (size_t part = 0; part < Tile::parts; ++part) {
    for (size_t r = 0; r < R; ++r) acc[part][r] = zero_floats();
  }
  for (size_t b = 0; b < num_blocks; ++b) {
    for (size_t part = 0; part < Tile::parts; ++part) {
      // One part after the other: unrolled, they would share loads of activations, and run out of registers.
      if constexpr (Tile::parts > 1 && R > 1) asm("" : "+r"(part));
      const auto column = tile.column(b, part);
      Products<Format, R> products(rows, b, acc[part]);
      column.prefetch();
      InLanes<Format>::decode(column, products);
    }
  }
  for (size_t part = 0; part < Tile::parts; ++part) {
    for (size_t r = 0; r < R; ++r) store_floats(y[r] + part * kLanes, acc[part][r], tile.num_out);
  }
}

// As many rows as there are, in passes of about the same number.
template <class Format, class Tile>
static void multiply_rows(Tile& tile, size_t num_blocks, const ActivationRow* rows, size_t num_rows, float* const* y,
                          size_t first_out) noexcept {
  using Multiply = decltype(&multiply_tile<Format, Tile, 1>);
  static constexpr Multiply multiply[] = {
      multiply_tile<Format, Tile, 1>, multiply_tile<Format, Tile, 2>, multiply_tile<Format, Tile, 3>,
      multiply_tile<Format, Tile, 4>, multiply_tile<Format, Tile, 5>,
#if defined(STEPAHEAD_VECTOR_AVX512)
      multiply_tile<Format, Tile, 6>, multiply_tile<Format, Tile, 7>, multiply_tile<Format, Tile, 8>,
#endif
  };
  static_assert(sizeof(multiply) / sizeof(Multiply) == kRowsAtOnce);
  for (size_t r = 0, passes = (num_rows + kRowsAtOnce - 1) / kRowsAtOnce; passes > 0; --passes) {
    const size_t count = (num_rows - r + passes - 1) / passes;
    float* out[kRowsAtOnce];
    for (size_t i = 0; i < count; ++i) out[i] = y[r + i] + first_out;
    multiply[count - 1](tile, num_blocks, rows + r, out);
    tile.more = false;  // the first pass asks for the next tile, for all
    r += count;
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
