// The decoders of formats_lanes.h for formats_32.h.
#pragma once

#include "kernels/formats_32.h"
#include "kernels/formats_lanes.h"

namespace stepahead::STEPAHEAD_ISA {

// Blocks of 32 elements from 0 to `most`.
template <int most>
struct DecoderOf32 : Decoder {
  static constexpr size_t sub_blocks = 1, dwords = 8;
  static constexpr int highest = most;
  static constexpr bool scaled = false;
};

template <class Nibbles>
static STEPAHEAD_INLINE Dwords nibbles_of_32(const Nibbles& q, size_t c) noexcept {
  return (c < 4 ? q[c] : shift_right<4>(q[c - 4])) & splat_byte(15);
}

// One int16 in both halves of each dword.
static STEPAHEAD_INLINE Dwords splat_word(int word) noexcept {
  return splat(static_cast<int>((static_cast<uint32_t>(word) & 0xFFFF) * 0x00010001));
}

template <>
struct InLanes<Q4_1> : DecoderOf32<15> {
  static constexpr bool has_mins = true;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto d_and_m = w.template dwords<1>(0);
    const auto q = w.template dwords<4>(offsetof(BlockQ4_1, q));
    sink.sums(0, splat_word(1));
    sink.sub_block(0, Scale{}, [&](size_t c) { return nibbles_of_32(q, c); });
    const Dwords minus_m = d_and_m[0] ^ splat(INT32_MIN);
    sink.scales(low_halves(d_and_m[0]), high_halves(minus_m));
  }
};

template <>
struct InLanes<Q5_0> : DecoderOf32<31> {
  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto high = w.template dwords<1>(offsetof(BlockQ5_0, high));
    const auto q = w.template dwords<4>(offsetof(BlockQ5_0, q));
    sink.sums(0, splat_word(-16));  // q is 16 too much
    sink.sub_block(0, Scale{}, [&](size_t c) { return nibbles_of_32(q, c) | bits_to_bytes(high[0], c, 16); });
    sink.scales(w.halves(offsetof(BlockQ5_0, d)));
  }
};

template <>
struct InLanes<Q5_1> : DecoderOf32<31> {
  static constexpr bool has_mins = true;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto head = w.template dwords<4>(0);  // d and m, the fifth bits, and nibbles
    const auto q = w.template dwords<4>(offsetof(BlockQ5_1, q));
    sink.sums(0, splat_word(1));
    sink.sub_block(0, Scale{}, [&](size_t c) { return nibbles_of_32(q, c) | bits_to_bytes(head[1], c, 16); });
    const Dwords minus_m = head[0] ^ splat(INT32_MIN);
    sink.scales(low_halves(head[0]), high_halves(minus_m));
  }
};

template <>
struct InLanes<IQ4_NL> : DecoderOf32<127> {
  static constexpr int lowest = -127;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto q = w.template dwords<4>(offsetof(BlockIQ4_NL, q));
    const Dwords levels = broadcast_16(kIQ4Levels);
    sink.sub_block(0, Scale{}, [&](size_t c) { return look_up(levels, nibbles_of_32(q, c)); });
    sink.scales(w.halves(offsetof(BlockIQ4_NL, d)));
  }
};

template <>
struct InLanes<MXFP4> : DecoderOf32<24> {
  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto q = w.template dwords<4>(offsetof(BlockMXFP4, q));
    const Dwords levels = add_bytes(broadcast_16(kE2M1Doubled), splat_byte(12));  // from 0 to 24
    sink.sums(0, splat_word(-12));
    sink.sub_block(0, Scale{}, [&](size_t c) { return look_up(levels, nibbles_of_32(q, c)); });
    sink.scales(half_powers_of_two(w.bytes(offsetof(BlockMXFP4, exponent))));
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
