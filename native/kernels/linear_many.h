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

  template <class Sink>
  STEPAHEAD_INLINE void give(Sink& sink) const noexcept {
    for (int j = 0; j < num_words; ++j) sink.sums(j, words[j]);
    for (int j = 0; j < static_cast<int>(Lanes::sub_blocks); j = rolled(j + 1)) {
      const Dwords* w = weight + static_cast<size_t>(j) * Lanes::dwords;
      sink.sub_block(j, Lanes::scaled ? scale[j] : Scale{}, [&](size_t c) { return w[c]; });
    }
    if constexpr (Lanes::has_mins) {
      sink.scales(d, dmin);
    } else {
      sink.scales(d);
    }
  }
};

// acc += the products of kRowsAtOnce rows with blocks [first, first + count)
template <class Format>
static void add_unpacked(const UnpackedBlock<Format>* blocks, size_t first, size_t count, const ActivationRow* rows,
                         Floats* memory) noexcept {
  Floats acc[kRowsAtOnce];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRowsAtOnce; ++r) acc[r] = memory[r];
  for (size_t i = 0; i < count; ++i) {
    Products<Format, kRowsAtOnce> products(rows, first + i, acc);
    blocks[i].give(products);
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < kRowsAtOnce; ++r) memory[r] = acc[r];
}

static constexpr size_t kRowsOfChunk = 12 * kRowsAtOnce;
static constexpr size_t kFewRows = 16;  // up to here weights are unpacked again for every kRowsAtOnce

// One part of a tile and up to kRowsOfChunk rows.
template <class Format, class Tile>
static void multiply_chunk(const Tile& tile, size_t part, size_t num_blocks, const ActivationRow* rows,
                           size_t num_rows, float* const* y, size_t first_out) noexcept {
  constexpr size_t together = Format::elements < 256 ? 256 / Format::elements : 1;
  UnpackedBlock<Format> blocks[together];
  Floats acc[kRowsOfChunk];
  ActivationRow last[kRowsAtOnce];  // rows of the last group, filled up with what is thrown away
  const size_t groups = (num_rows + kRowsAtOnce - 1) / kRowsAtOnce;
  for (size_t i = 0; i < kRowsAtOnce; ++i) {
    const size_t r = (groups - 1) * kRowsAtOnce + i;
    last[i] = rows[r < num_rows ? r : num_rows - 1];
  }
  for (size_t r = 0; r < groups * kRowsAtOnce; ++r) acc[r] = zero_floats();
  for (size_t b = 0; b < num_blocks; b += together) {
    const size_t count = num_blocks - b < together ? num_blocks - b : together;
    for (size_t i = 0; i < count; ++i) {
      const auto column = tile.column(b + i, part);
      column.prefetch();
      InLanes<Format>::decode(column, blocks[i]);
    }
    for (size_t g = 0; g < groups; ++g) {
      const ActivationRow* of_group = g + 1 < groups ? rows + g * kRowsAtOnce : last;
      add_unpacked<Format>(blocks, b, count, of_group, acc + g * kRowsAtOnce);
    }
  }
  for (size_t r = 0; r < num_rows; ++r) store_floats(y[r] + first_out + part * kLanes, acc[r], tile.num_out);
}

template <class Format, class Tile>
static void multiply_many_rows(Tile& tile, size_t num_blocks, const ActivationRow* rows, size_t num_rows,
                               float* const* y, size_t first_out) noexcept {
  for (size_t r = 0; r < num_rows; r += kRowsOfChunk) {
    const size_t count = num_rows - r < kRowsOfChunk ? num_rows - r : kRowsOfChunk;
    for (size_t part = 0; part < Tile::parts; ++part) {
      multiply_chunk<Format>(tile, part, num_blocks, rows + r, count, y + r, first_out);
    }
    tile.more = false;
  }
}

// linear_int8.h and linear_interleaved.h for a format that has InLanes.
template <class Format, template <class> class Tile>
static void linear_in_lanes(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                            const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  const size_t num_blocks = num_in / Format::elements;
  // Small blocks of panels are as quickly unpacked again (Zen 5).
  const bool many = num_rows > kFewRows && (Format::elements >= 256 || !Tile<Format>::interleaved);
  for (size_t o = begin; o < end; o += kLanes * Tile<Format>::parts) {
    Tile<Format> tile(matrix, row_bytes, o, end, num_blocks);
    if (many) {
      multiply_many_rows<Format>(tile, num_blocks, rows, num_rows, y, o);
    } else {
      multiply_rows<Format>(tile, num_blocks, rows, num_rows, y, o);
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
