// The decoders of formats_lanes.h for formats_256.h.
#pragma once

#include "kernels/formats_256.h"
#include "kernels/formats_lanes.h"

namespace stepahead::STEPAHEAD_ISA {

template <>
struct InLanes<Q2_K> : Decoder {
  static constexpr size_t sub_blocks = 16, dwords = 4;
  static constexpr int highest = 3;
  static constexpr bool has_mins = true;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto packed = w.template dwords<4>(offsetof(BlockQ2_K, scales));
    const Dwords low = splat_byte(15), pair = splat_byte(3);
    Scale scale[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) scale[j] = byte_to_scale(packed[j / 4] & low, j % 4);
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      Dwords q[8];
      w.template dwords<8>(offsetof(BlockQ2_K, q) + 32 * half).copy(q);
#pragma GCC unroll 1
      for (int j = 8 * half; j < 8 * half + 8; j += 2) {
        sink.sub_block(j, scale[j], [&](size_t c) { return q[c] & pair; });
        sink.sub_block(j + 1, scale[j + 1], [&](size_t c) { return q[4 + c] & pair; });
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; ++c) q[c] = shift_right<2>(q[c]);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      sink.sums(j, bytes_to_words(shift_right<4>(packed[j / 2]) & low, 2 * j % 4, 2 * j % 4 + 1));
    }
    const auto tail = w.template dwords<4>(sizeof(BlockQ2_K) - 16);  // at its end d and dmin
    sink.scales(low_halves(tail[3]), high_halves(tail[3]));
  }
};

template <>
struct InLanes<Q3_K> : Decoder {
  static constexpr size_t sub_blocks = 16, dwords = 4;
  static constexpr int highest = 7;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto packed = w.template dwords<4>(offsetof(BlockQ3_K, scales) - 4);  // eight bytes of nibbles from [1] on
    const Dwords scales[4] = {
        scales_of(packed[1], shift_left<4>(packed[3])),
        scales_of(packed[2], shift_left<2>(packed[3])),
        scales_of(shift_right<4>(packed[1]), packed[3]),
        scales_of(shift_right<4>(packed[2]), shift_right<2>(packed[3])),
    };
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {  // q is 4 too much
      const Dwords words = signed_bytes_to_words(scales[j / 2], 2 * j % 4, 2 * j % 4 + 1);
      sink.sums(j, negative_words(shift_left<2>(words)));
    }
    decode_elements(w, scales, sink);
    sink.scales(w.halves(offsetof(BlockQ3_K, d)));
  }

 private:
  // Four scales as signed bytes.
  static STEPAHEAD_INLINE Dwords scales_of(Dwords nibbles, Dwords pairs) noexcept {
    return add_bytes((nibbles & splat_byte(15)) | (pairs & splat_byte(0x30)), splat_byte(-32));
  }

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode_elements(const Column& w, const Dwords* packed, Sink& sink) noexcept {
    const Dwords pair = splat_byte(3), third = splat_byte(4);
    Scale scale[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) scale[j] = signed_byte_to_scale(packed[j / 4], j % 4);
    Dwords high[8];
    w.template dwords<8>(offsetof(BlockQ3_K, high)).copy(high);
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      Dwords q[8];
      w.template dwords<8>(offsetof(BlockQ3_K, q) + 32 * half).copy(q);
#pragma GCC unroll 1
      for (int j = 8 * half; j < 8 * half + 8; j += 2) {
        const auto weights = [&](size_t c) { return (q[c] & pair) | (shift_left<2>(high[c]) & third); };
        sink.sub_block(j, scale[j], weights);
        sink.sub_block(j + 1, scale[j + 1], [&](size_t c) { return weights(4 + c); });
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; ++c) {
          q[c] = shift_right<2>(q[c]);
          high[c] = shift_right<1>(high[c]);
        }
      }
    }
  }
};

template <>
struct InLanes<IQ4_XS> : Decoder {
  static constexpr size_t sub_blocks = 8, dwords = 8;
  static constexpr int lowest = -127, highest = 127;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    const auto head = w.template dwords<4>(0);  // d and the upper bits of the scales, then their nibbles, then elements
    const Dwords low = splat_byte(15), levels = broadcast_16(kIQ4Levels);
    // A byte holds the upper bits of four scales: once for each byte of two of them, in the low half and the high half.
    const Dwords pairs = shuffle_bytes(head[0], 0x03030202);
    const Dwords first = splat(0x00300030), second = splat(0x30003000);
    const Dwords even = (shift_left<4>(pairs) & first) | (pairs & second);
    const Dwords odd = (shift_left<2>(pairs) & first) | (shift_right<2>(pairs) & second);
    const Dwords scales[2] = {add_bytes((head[1] & low) | even, splat_byte(-32)),
                              add_bytes((shift_right<4>(head[1]) & low) | odd, splat_byte(-32))};
    Scale scale[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) scale[j] = signed_byte_to_scale(scales[j % 2], j / 2);
#pragma GCC unroll 1
    for (int j = 0; j < 8; ++j) {
      const auto q = w.template dwords<4>(offsetof(BlockIQ4_XS, q) + 16 * static_cast<size_t>(j));
      sink.sub_block(j, scale[j], [&](size_t c) {
        return look_up(levels, (c < 4 ? q[c] : shift_right<4>(q[c - 4])) & low);
      });
    }
    sink.scales(low_halves(head[0]));
  }
};

template <>
struct InLanes<IQ3_XXS> : Decoder {
  static constexpr size_t sub_blocks = 8, dwords = 8;
  static constexpr int lowest = -62, highest = 62;

  template <class Column, class Sink>
  static STEPAHEAD_INLINE void decode(const Column& w, Sink& sink) noexcept {
    Dwords words[8];
    w.template dwords<8>(offsetof(BlockIQ3_XXS, signs)).copy(words);
    const Dwords levels = broadcast_16(kIQ3XXSLevels);
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      Dwords codes[8];
      w.template dwords<8>(offsetof(BlockIQ3_XXS, codes) + 32 * half).copy(codes);
#pragma GCC unroll 1
      for (int j = 0; j < 4; ++j) {
        const Dwords word = words[4 * half + j], signs = even_signs(word);
        const Dwords scale = (shift_right<3>(word) & splat_byte(0x1E)) | splat_byte(1);  // in byte 3
        const WordsOfCodes first{kIQ3XXSGrid, codes[2 * j]}, second{kIQ3XXSGrid, codes[2 * j + 1]};
        sink.sub_block(4 * half + j, byte_to_scale(scale, 3), [&](size_t c) {
          const Dwords pairs = (c < 4 ? first : second).twice(c % 4);  // each byte holds its level and another's
          const Dwords level = (pairs & splat(0x000F000F)) | (shift_right<4>(pairs) & splat(0x0F000F00));
          return look_up(levels, level | bits_to_bytes(signs, c, 8));
        });
      }
    }
    sink.scales(multiply(w.halves(offsetof(BlockIQ3_XXS, d)), splat_float(0.25f)));
  }

 private:
  // Four times seven bits of each dword to its bytes, each with an eighth that makes their number even.
  static STEPAHEAD_INLINE Dwords even_signs(Dwords word) noexcept {
    const Dwords seven =
        (word & splat(0x7F)) | (shift_dwords_left<1>(word) & splat(0x7F00)) |
        (shift_dwords_left<2>(word) & splat(0x7F0000)) | (shift_dwords_left<3>(word) & splat(0x7F000000));
    // Bit 7, for the nibbles that have an odd number of bits
    static constexpr int8_t odd[16] = {0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0};
    const Dwords table = broadcast_16(odd), low = splat_byte(15);
    return seven | (look_up(table, seven & low) ^ look_up(table, shift_right<4>(seven) & low));
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
