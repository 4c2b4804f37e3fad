// Q8_0, Q4_0, Q5_0: y = d q; Q4_1, Q5_1: y = d q + m. Blocks of 32.
#pragma once

#include "encode/affine_fit.h"

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

struct EncodeQ8_0 {
  using Block = BlockQ8_0;
  static constexpr size_t elements = 32;
  static constexpr float limit = 127 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    static constexpr float targets[8] = {124.0f, 124.4f, 125.0f, 125.6f, 126.0f, 126.6f, 127.0f, 127.5f};
    static constexpr float few_targets[8] = {124, 125, 126, 127, 124, 125, 126, 127};
    using Grid = Uniform<-127, 127>;
    const ScaleFit fit =
        weighted ? search_scale<Grid, 32, weighted>(x, w, targets) : search_scale_quickly<Grid, 32>(x, few_targets);
    const uint16_t d = scale_half(fit.scale < 0 ? -fit.scale : fit.scale);
    store_half(out.d, d);
    uint8_t codes[32];
    codes_of<Grid, 32>(x, half_to_float(d), codes);
    for (size_t i = 0; i < 32; ++i) out.q[i] = static_cast<int8_t>(codes[i] - 127);
  }
};

struct EncodeQ4_0 {
  using Block = BlockQ4_0;
  static constexpr size_t elements = 32;
  static constexpr float limit = 7 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    static constexpr float targets[16] = {-10.5f, -10.2f, -9.7f, -9.2f, -8.7f, -8.5f, -8.3f, -8.0f,
                                          -7.9f,  -7.6f,  -7.0f, -6.8f, -6.0f, 8.1f,  8.5f,  9.2f};
    static constexpr float few_targets[8] = {-8.6f, -8.0f, -7.7f, -7.1f, -8.6f, -8.0f, -7.7f, -7.1f};
    using Grid = Uniform<-8, 7>;
    const ScaleFit fit = weighted ? fit_scale<Grid, 32, weighted>(x, w, targets)
                                  : search_scale_quickly<Grid, 32>(x, few_targets);
    const uint16_t d = scale_half(fit.scale);
    store_half(out.d, d);
    uint8_t codes[32];
    codes_of<Grid, 32>(x, half_to_float(d), codes);
    pack_nibbles(codes, out.q);
  }
};

struct EncodeQ5_0 {
  using Block = BlockQ5_0;
  static constexpr size_t elements = 32;
  static constexpr float limit = 15 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    static constexpr float targets[24] = {-20.0f, -18.6f, -17.8f, -17.3f, -16.9f, -16.7f, -16.5f, -16.3f,
                                          -16.0f, -15.9f, -15.7f, -15.4f, -15.0f, -14.9f, -14.7f, -14.4f,
                                          -14.0f, -13.7f, -13.3f, -13.0f, -12.0f, 11.0f,  16.3f,  16.9f};
    static constexpr float few_targets[8] = {-16.5f, -16.0f, -15.7f, -15.0f, -16.5f, -16.0f, -15.7f, -15.0f};
    using Grid = Uniform<-16, 15>;
    const ScaleFit fit = weighted ? fit_scale<Grid, 32, weighted>(x, w, targets)
                                  : search_scale_quickly<Grid, 32>(x, few_targets);
    const uint16_t d = scale_half(fit.scale);
    store_half(out.d, d);
    uint8_t codes[32];
    codes_of<Grid, 32>(x, half_to_float(d), codes);
    pack_fifth_bits(codes, out.high);
    pack_nibbles(codes, out.q);
  }
};

// d and m as halves, and the codes that belong to them.
template <int levels, bool weighted>
static inline void encode_affine(const float* x, const float* w, uint8_t* d_out, uint8_t* m_out,
                                 uint8_t* codes) noexcept {
  AffineFit fit;
  if constexpr (weighted) {
    fit = fit_affine<levels, 32, true, false>(x, w, levels == 15 ? kMargins16 : kMargins32);
  } else {
    fit = fit_affine_quickly<levels, 32>(x, levels == 15 ? kQuickMargins16 : kQuickMargins32);
  }
  const uint16_t d_half = scale_half(fit.scale);
  // Where the spread is below all halves, only the mean is left to say.
  const float mean = fit.offset + fit.scale * (fit.q / fit.ww);
  const uint16_t m_half = scale_half(half_to_float(d_half) == 0 ? mean : fit.offset);
  store_half(d_out, d_half);
  store_half(m_out, m_half);
  const Lanes inverse = all(inverse_of(half_to_float(d_half))), m = all(half_to_float(m_half));
  float q[32];
  for (size_t i = 0; i < 32; i += 8) {
    store_lanes(q + i, Uniform<0, levels>::nearest((load_lanes(x + i) - m) * inverse));
  }
  to_bytes<32>(q, codes);
}

struct EncodeQ4_1 {
  using Block = BlockQ4_1;
  static constexpr size_t elements = 32;
  static constexpr float limit = kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    uint8_t codes[32];
    encode_affine<15, weighted>(x, w, out.d, out.m, codes);
    pack_nibbles(codes, out.q);
  }
};

struct EncodeQ5_1 {
  using Block = BlockQ5_1;
  static constexpr size_t elements = 32;
  static constexpr float limit = kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    uint8_t codes[32];
    encode_affine<31, weighted>(x, w, out.d, out.m, codes);
    pack_fifth_bits(codes, out.high);
    pack_nibbles(codes, out.q);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
