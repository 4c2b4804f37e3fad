// Q8_0, Q4_0, Q5_0: y = d q; Q4_1, Q5_1: y = d q + m. Blocks of 32.
#pragma once

#include "encode/quick_fit.h"

namespace stepahead::STEPAHEAD_ISA {

// Element i in the low nibble of byte i, i + 16 in its high nibble. Eight bytes at a time.
static inline void pack_nibbles(const uint8_t* codes, uint8_t* out) noexcept {
  for (size_t i = 0; i < 16; i += 8) {
    store_u64(out + i, (load_u64(codes + i) & kNibbles) | (load_u64(codes + i + 16) & kNibbles) << 4);
  }
}

static inline void pack_fifth_bits(const uint8_t* codes, uint8_t* out) noexcept {
  uint32_t bits = 0;
  // The multiplication gathers the lowest bit of each byte in the highest byte.
  for (size_t i = 0; i < 32; i += 8) {
    bits |= static_cast<uint32_t>((load_u64(codes + i) >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56) << i;
  }
  memcpy(out, &bits, 4);
}

// Types with a scale alone. Codec: Grid, targets and quick_targets for the extreme element, and write.
template <class Codec>
struct EncodeScaled {
  static constexpr size_t elements = 32;

  template <class Block>
  static STEPAHEAD_INLINE void write(const float* x, float scale, Block& out) noexcept {
    const uint16_t d = scale_half(scale);
    store_half(out.d, d);
    uint8_t codes[32];
    codes_of<typename Codec::Grid, 32>(x, half_to_float(d), codes);
    Codec::pack(codes, out);
  }

  template <class Block>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    write(x, fit_scale<typename Codec::Grid, 32, true>(x, w, Codec::targets).scale, out);
  }

  // Up to eight blocks that have no weights.
  template <class Block>
  static void encode_quickly(const float* x, size_t count, Block* out) noexcept {
    EightBlocks blocks;
    put_side_by_side(x, count, blocks);
    float scales[8];
    store_lanes(scales, quick_scales<typename Codec::Grid>(blocks, Codec::quick_targets));
    for (size_t b = 0; b < count; ++b) write(x + 32 * b, scales[b], out[b]);
  }
};

struct EncodeQ8_0 : EncodeScaled<EncodeQ8_0> {
  using Block = BlockQ8_0;
  using Grid = Uniform<-127, 127>;
  static constexpr float limit = 127 * kLargestHalf;
  static constexpr float targets[8] = {124.0f, 124.4f, 125.0f, 125.6f, 126.0f, 126.6f, 127.0f, 127.5f};
  static constexpr float quick_targets[4] = {124, 125, 126, 127};

  // Among codes so fine the search alone is as good as a fit.
  static void encode(const float* x, const float* w, Block& out) noexcept {
    write(x, search_scale<Grid, 32, true>(x, w, targets).scale, out);
  }

  static STEPAHEAD_INLINE void pack(const uint8_t* codes, Block& out) noexcept {
    for (size_t i = 0; i < 32; ++i) out.q[i] = static_cast<int8_t>(codes[i] - 127);
  }
};

struct EncodeQ4_0 : EncodeScaled<EncodeQ4_0> {
  using Block = BlockQ4_0;
  using Grid = Uniform<-8, 7>;
  static constexpr float limit = 7 * kLargestHalf;
  static constexpr float targets[16] = {-10.5f, -10.2f, -9.7f, -9.2f, -8.7f, -8.5f, -8.3f, -8.0f,
                                        -7.9f,  -7.6f,  -7.0f, -6.8f, -6.0f, 8.1f,  8.5f,  9.2f};
  static constexpr float quick_targets[4] = {-8.6f, -8.0f, -7.7f, -7.1f};

  static STEPAHEAD_INLINE void pack(const uint8_t* codes, Block& out) noexcept { pack_nibbles(codes, out.q); }
};

struct EncodeQ5_0 : EncodeScaled<EncodeQ5_0> {
  using Block = BlockQ5_0;
  using Grid = Uniform<-16, 15>;
  static constexpr float limit = 15 * kLargestHalf;
  static constexpr float targets[24] = {-20.0f, -18.6f, -17.8f, -17.3f, -16.9f, -16.7f, -16.5f, -16.3f,
                                        -16.0f, -15.9f, -15.7f, -15.4f, -15.0f, -14.9f, -14.7f, -14.4f,
                                        -14.0f, -13.7f, -13.3f, -13.0f, -12.0f, 11.0f,  16.3f,  16.9f};
  static constexpr float quick_targets[4] = {-16.5f, -16.0f, -15.7f, -15.0f};

  static STEPAHEAD_INLINE void pack(const uint8_t* codes, Block& out) noexcept {
    pack_fifth_bits(codes, out.high);
    pack_nibbles(codes, out.q);
  }
};

// Types with a scale and an offset. Codec: levels, margins, quick margins and pack.
template <class Codec, int levels>
struct EncodeAffine {
  static constexpr size_t elements = 32;
  static constexpr float limit = kLargestHalf;

  template <class Block>
  static STEPAHEAD_INLINE void write(const float* x, float scale, float offset, float mean, Block& out) noexcept {
    const uint16_t d_half = scale_half(scale);
    // Where the spread is below all halves, only the mean is left to say.
    const uint16_t m_half = scale_half(half_to_float(d_half) == 0 ? mean : offset);
    store_half(out.d, d_half);
    store_half(out.m, m_half);
    const Lanes inverse = all(inverse_of(half_to_float(d_half))), m = all(half_to_float(m_half));
    float q[32];
    for (size_t i = 0; i < 32; i += 8) {
      store_lanes(q + i, Uniform<0, levels>::nearest((load_lanes(x + i) - m) * inverse));
    }
    uint8_t codes[32];
    to_bytes<32>(q, codes);
    Codec::pack(codes, out);
  }

  template <class Block>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    const AffineFit fit = fit_affine<levels, 32, true, false>(x, w, levels == 15 ? kMargins16 : kMargins32);
    write(x, fit.scale, fit.offset, fit.offset + fit.scale * (fit.q / fit.ww), out);
  }

  template <class Block>
  static void encode_quickly(const float* x, size_t count, Block* out) noexcept {
    EightBlocks blocks;
    put_side_by_side(x, count, blocks);
    const QuickPairs pairs = quick_pairs<levels>(blocks, Codec::quick_low, Codec::quick_high);
    float scales[8], offsets[8], means[8];
    store_lanes(scales, pairs.scale);
    store_lanes(offsets, pairs.offset);
    store_lanes(means, pairs.mean);
    for (size_t b = 0; b < count; ++b) write(x + 32 * b, scales[b], offsets[b], means[b], out[b]);
  }
};

struct EncodeQ4_1 : EncodeAffine<EncodeQ4_1, 15> {
  using Block = BlockQ4_1;
  static constexpr float quick_low[4] = {0.15f, 0.45f, -0.15f, 0}, quick_high[4] = {0.15f, -0.15f, 0.3f, 0};

  static STEPAHEAD_INLINE void pack(const uint8_t* codes, Block& out) noexcept { pack_nibbles(codes, out.q); }
};

struct EncodeQ5_1 : EncodeAffine<EncodeQ5_1, 31> {
  using Block = BlockQ5_1;
  static constexpr float quick_low[4] = {0.15f, 0.3f, -0.15f, 0}, quick_high[4] = {0.15f, -0.6f, 0.3f, 0};

  static STEPAHEAD_INLINE void pack(const uint8_t* codes, Block& out) noexcept {
    pack_fifth_bits(codes, out.high);
    pack_nibbles(codes, out.q);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
