// How the blocks of each quantised format are unpacked in lanes, once for all instruction sets and layouts.
//
// A format has InLanes<Format>, or is left to the scalar kernels. It says how many sub-blocks of how many dwords a
// block has, which values its integers take and what their sums mean, and `decode` hands them to a sink:
//
//   sink.sub_block(j, scale, weights)  weights(c) is dword c of sub-block j, four neighbouring elements in each lane;
//                                      its products with x count `scale` times (once if not `scaled`)
//   sink.sums(j, words)                two int16 in each lane, times the sums of x in the two 16 elements from 32 j on:
//                                      added to the products (offsets of the weights), or the minimums if `has_mins`
//   sink.scales(d) or (d, dmin)        at the end: v = d * sum, or v = fma(-dmin, minimum, d * sum)
//
// A column gives `dwords<n>(offset)`, an array of n vectors (n = 1, 4 or 8: in the plain layout the bytes of four or
// eight are loaded at once), and `halves(offset)` for a scale that lies outside of the dwords of a panel.
#pragma once

#include "kernels/columns.h"
#include "kernels/formats.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Format>
struct InLanes {
  static constexpr bool exists = false;
};

// What every format has that does not say otherwise.
struct Decoder {
  static constexpr bool exists = true, scaled = true, has_mins = false;
  static constexpr int lowest = 0;
};

// For the counter of a loop that GCC would unroll, small as it is: several rows' products many times over are more than
// a cache of decoded instructions holds (Q6_K, four rows: a third slower).
static STEPAHEAD_INLINE int rolled(int i) noexcept {
  asm("" : "+r"(i));
  return i;
}

template <>
struct InLanes<Q8_0> : Decoder {
  static constexpr size_t sub_blocks = 1, dwords = 8;
  static constexpr int lowest = -128, highest = 127;
  static constexpr bool scaled = false;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto q = w.template dwords<8>(offsetof(BlockQ8_0, q));
    sink.sub_block(0, Scale{}, [&](size_t c) { return q[c]; });
    sink.scales(w.halves(offsetof(BlockQ8_0, d)));
  }
};

template <>
struct InLanes<Q4_0> : Decoder {
  static constexpr size_t sub_blocks = 1, dwords = 8;
  static constexpr int highest = 15;
  static constexpr bool scaled = false;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto q = w.template dwords<4>(offsetof(BlockQ4_0, q));
    const Dwords low = splat_byte(15);
    sink.sums(0, splat(static_cast<int>(0xFFF8FFF8)));  // q is 8 too much
    sink.sub_block(0, Scale{}, [&](size_t c) { return c < 4 ? q[c] & low : high_nibbles(q[c - 4]); });
    sink.scales(w.halves(offsetof(BlockQ4_0, d)));
  }
};

template <class Block, WeightType type>
struct InLanes<ScalesAndMinsFormat<Block, type>> : Decoder {
  static constexpr bool five = type == WeightType::Q5_K;
  static constexpr size_t sub_blocks = 8, dwords = 8;
  static constexpr int highest = five ? 31 : 15;
  static constexpr bool has_mins = true;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto head = w.template dwords<4>(0);  // d and dmin, then the packed scales
    const Dwords six = splat_byte(0x3F), low = splat_byte(15), top = splat_byte(0x30);
    const auto upper = [&](Dwords tail, Dwords bits) { return (tail & low) | (shift_right<2>(bits) & top); };
    const Dwords scales[2] = {head[1] & six, upper(head[3], head[1])};
    const Dwords mins[2] = {head[2] & six, upper(shift_right<4>(head[3]), head[2])};
    decode_elements(w, scales, sink);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sink.sums(j, bytes_to_words(mins[j / 4], j % 4, j % 4));
    sink.scales(low_halves(head[0]), high_halves(head[0]));
  }

 private:
  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode_elements(const Column& w, const Dwords* packed, Sink& sink) noexcept {
    const Dwords low = splat_byte(15), fifth = splat_byte(16);
    Scale scale[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) scale[j] = byte_to_scale(packed[j / 4], j % 4);
    Dwords high[8];  // bits 0 and 1 of its bytes: of the sub-blocks 2g and 2g + 1
    if constexpr (five) w.template dwords<8>(offsetof(BlockQ5_K, high)).copy(high);
    for (int g = 0; g < 4; g = rolled(g + 1)) {
      const auto q = w.template dwords<8>(offsetof(Block, q) + 32 * g);
      sink.sub_block(2 * g, scale[2 * g], [&](size_t c) {
        const Dwords even = q[c] & low;
        return five ? even | (shift_left<4>(high[c]) & fifth) : even;
      });
      sink.sub_block(2 * g + 1, scale[2 * g + 1], [&](size_t c) {
        const Dwords odd = high_nibbles(q[c]);
        return five ? odd | (shift_left<3>(high[c]) & fifth) : odd;
      });
      if constexpr (five) {
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; ++c) high[c] = shift_right<2>(high[c]);
      }
    }
  }
};

template <>
struct InLanes<Q6_K> : Decoder {
  static constexpr size_t sub_blocks = 16, dwords = 4;
  static constexpr int highest = 63;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto packed = w.template dwords<4>(offsetof(BlockQ6_K, scales));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {  // q is 32 too much
      const Dwords scales = signed_bytes_to_words(packed[j / 2], 2 * j % 4, 2 * j % 4 + 1);
      sink.sums(j, negative_words(shift_left<5>(scales)));
    }
    Scale scale[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) scale[j] = signed_byte_to_scale(packed[j / 4], j % 4);
    for (int half = 0; half < 2; half = rolled(half + 1)) {
      Dwords high[8];
      w.template dwords<8>(offsetof(BlockQ6_K, high) + 32 * half).copy(high);
      for (int s = 0; s < 2; s = rolled(s + 1)) {
        decode_quarter(w, half, s, high, scale, sink);
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; ++c) high[c] = shift_right<2>(high[c]);
      }
    }
    sink.scales(w.halves(offsetof(BlockQ6_K, d)));
  }

 private:
  // Nibbles of 32 bytes: in the low ones two sub-blocks, whose upper bits are bit pair 0 of `high`, in the high ones
  // those 64 elements on, with bit pair 2.
  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode_quarter(const Column& w, int half, int s, const Dwords* high, const Scale* scale,
                                              Sink& sink) noexcept {
    const Dwords nibble = splat_byte(15), pair = splat_byte(0x30);
    const auto low = w.template dwords<8>(offsetof(BlockQ6_K, low) + 64 * half + 32 * s);
    for (int u = 0; u < 2; u = rolled(u + 1)) {
      const int j = 8 * half + 2 * s + u;
      sink.sub_block(j, scale[j], [&](size_t c) {
        return (low[4 * u + c] & nibble) | (shift_left<4>(high[4 * u + c]) & pair);
      });
      sink.sub_block(j + 4, scale[j + 4], [&](size_t c) {
        return high_nibbles(low[4 * u + c]) | (high[4 * u + c] & pair);
      });
    }
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
