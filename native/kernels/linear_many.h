// The product of linear_lanes.h for many activation rows, such as the chunk of a prompt: a few blocks of weights are
// unpacked into the first cache and multiplied with every row of the chunk, whose sums wait in memory.
#pragma once

#include "kernels/linear_lanes.h"

namespace stepahead::STEPAHEAD_ISA {

// The sink of a decoder that keeps what it is given, to give it to others.
template <class Format>
struct UnpackedBlock {
  using Lanes = InLanes<Format>;
  Dwords weight[Lanes::sub_blocks * Lanes::dwords];
  Scale scale[Lanes::sub_blocks];
  Dwords words[Format::elements / 32];
  int num_words = 0;
  Floats d, dmin;

  template <class Weights>
  STEPAHEAD_INLINE void sub_block(int j, Scale of_block, const Weights& weights) noexcept {
#pragma GCC unroll 8
    for (size_t c = 0; c < Lanes::dwords; ++c) weight[static_cast<size_t>(j) * Lanes::dwords + c] = weights(c);
    if constexpr (Lanes::scaled) scale[j] = of_block;
  }
  STEPAHEAD_INLINE void sums(int j, Dwords of_block) noexcept {
    words[j] = of_block;
    num_words = Format::elements / 32;
  }
  STEPAHEAD_INLINE void scales(Floats of_block) noexcept { d = of_block; }
  STEPAHEAD_INLINE void scales(Floats of_block, Floats of_mins) noexcept {
    d = of_block;
    dmin = of_mins;
  }
};

// acc += the products of R rows with blocks [first, first + count) of C columns of outputs, which share the loads of
// activations.
template <class Format, size_t C, size_t R>
static void add_unpacked(const UnpackedBlock<Format> (*blocks)[C], size_t first, size_t count,
                         const ActivationRow* rows, Floats (*memory)[C]) noexcept {
  using Lanes = InLanes<Format>;
  Floats acc[R][C];
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    for (size_t i = 0; i < C; ++i) acc[r][i] = memory[r][i];
  }
  for (size_t n = 0; n < count; ++n) {
    const UnpackedBlock<Format>* block = blocks[n];
    const size_t b = first + n;
    Dwords sum[R][C], minimum[R][C];
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      for (size_t i = 0; i < C; ++i) sum[r][i] = minimum[r][i] = zero_dwords();
    }
    for (int j = 0; j < block[0].num_words; j = rolled(j + 1)) {
      Dwords (*to)[C] = Lanes::has_mins ? minimum : sum;
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) {
        const Dwords x = broadcast_dword(rows[r].sums + b * (Format::elements / 16) + 2 * j);
        for (size_t i = 0; i < C; ++i) to[r][i] = add_word_products(to[r][i], block[i].words[j], x);
      }
    }
    for (int j = 0; j < static_cast<int>(Lanes::sub_blocks); j = rolled(j + 1)) {
      Scale scale[C] = {};
      const Dwords* w[C];
      for (size_t i = 0; i < C; ++i) {
        if constexpr (Lanes::scaled) scale[i] = block[i].scale[j];
        w[i] = block[i].weight + static_cast<size_t>(j) * Lanes::dwords;
      }
      const size_t k = b * Format::elements + 4 * Lanes::dwords * static_cast<size_t>(j);
      if constexpr (C == 1) {
        add_products<Lanes::lowest, Lanes::highest, R, Lanes::dwords, Lanes::scaled>(
            &sum[0][0], scale[0], rows, k, [&](size_t c) { return w[0][c]; });
      } else {
        add_products_of_columns<Lanes::lowest, Lanes::highest, R, C, Lanes::dwords, Lanes::scaled>(sum, scale, rows, k,
                                                                                                   w);
      }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      for (size_t i = 0; i < C; ++i) {
        Floats v = multiply(block[i].d, to_floats(sum[r][i]));
        if constexpr (Lanes::has_mins) v = minus_fma(block[i].dmin, to_floats(minimum[r][i]), v);
        acc[r][i] = fma(splat_float(rows[r].d[b]), v, acc[r][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    for (size_t i = 0; i < C; ++i) memory[r][i] = acc[r][i];
  }
}

static constexpr size_t kRowsOfChunk = 12 * kRowsOfGroup;
static constexpr size_t kFewRows = 16;  // up to here weights are unpacked again for every kRowsAtOnce

// The columns of outputs that start at `first_out` + i kLanes, and up to kRowsOfChunk rows.
template <class Format, class Tile, size_t C>
static void multiply_chunk(const Tile* tiles, size_t num_blocks, const ActivationRow* rows, size_t num_rows,
                           float* const* y, size_t first_out) noexcept {
  constexpr size_t R = kRowsOfGroup, together = Format::elements < 256 ? 256 / Format::elements : 1;
  UnpackedBlock<Format> blocks[together][C];
  Floats acc[kRowsOfChunk][C];
  ActivationRow last[R];  // rows of the last group, filled up with what is thrown away
  const size_t groups = (num_rows + R - 1) / R;
  for (size_t i = 0; i < R; ++i) {
    const size_t r = (groups - 1) * R + i;
    last[i] = rows[r < num_rows ? r : num_rows - 1];
  }
  for (size_t r = 0; r < groups * R; ++r) {
    for (size_t i = 0; i < C; ++i) acc[r][i] = zero_floats();
  }
  for (size_t b = 0; b < num_blocks; b += together) {
    const size_t count = num_blocks - b < together ? num_blocks - b : together;
    for (size_t n = 0; n < count; ++n) {
      for (size_t i = 0; i < C; ++i) {
        const auto column = tiles[i].column(b + n, (first_out / kLanes + i) % Tile::parts);
        column.prefetch();
        InLanes<Format>::decode(column, blocks[n][i]);
      }
    }
    for (size_t g = 0; g < groups; ++g) {
      add_unpacked<Format, C, R>(blocks, b, count, g + 1 < groups ? rows + g * R : last, acc + g * R);
    }
  }
  for (size_t r = 0; r < num_rows; ++r) {
    for (size_t i = 0; i < C; ++i) store_floats(y[r] + first_out + i * kLanes, acc[r][i], tiles[i].num_out);
  }
}

template <class Format, class Tile, size_t C>
static void multiply_many_rows(const uint8_t* matrix, size_t row_bytes, size_t o, size_t end, size_t num_blocks,
                               const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  const auto tile = [&](size_t i) {
    const size_t first = (o + i * kLanes) / (Tile::parts * kLanes) * (Tile::parts * kLanes);
    return Tile(matrix, row_bytes, first, end, num_blocks);
  };
  Tile tiles[2] = {tile(0), tile(C - 1)};
  for (size_t r = 0; r < num_rows; r += kRowsOfChunk) {
    const size_t count = num_rows - r < kRowsOfChunk ? num_rows - r : kRowsOfChunk;
    multiply_chunk<Format, Tile, C>(tiles, num_blocks, rows + r, count, y + r, o);
    for (Tile& each : tiles) each.more = false;
  }
}

// linear_int8.h and linear_interleaved.h for a format that has InLanes.
template <class Format, template <class> class Tile>
static void linear_in_lanes(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                            const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  const size_t num_blocks = num_in / Format::elements;
  if (num_rows > kFewRows) {
    size_t o = begin;
    for (; kColumnsOfGroup == 2 && o + kLanes < end; o += 2 * kLanes) {
      multiply_many_rows<Format, Tile<Format>, kColumnsOfGroup>(matrix, row_bytes, o, end, num_blocks, rows, num_rows,
                                                                y);
    }
    for (; o < end; o += kLanes) {
      multiply_many_rows<Format, Tile<Format>, 1>(matrix, row_bytes, o, end, num_blocks, rows, num_rows, y);
    }
    return;
  }
  for (size_t o = begin; o < end; o += kLanes * Tile<Format>::parts) {
    Tile<Format> tile(matrix, row_bytes, o, end, num_blocks);
    multiply_rows<Format>(tile, num_blocks, rows, num_rows, y, o);
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
