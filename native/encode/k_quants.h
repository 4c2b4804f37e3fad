// Q2_K to Q6_K: super-blocks of 256. The layouts are those of kernels/blocks.h.
#pragma once

#include "encode/super_affine.h"
#include "encode/super_scaled.h"

namespace stepahead::STEPAHEAD_ISA {

// Four to a byte: byte i of either half of 128 holds elements i, i + 32, i + 64, i + 96.
static inline void pack_pairs(const uint8_t* codes, uint8_t* out) noexcept {
  for (size_t half = 0; half < 2; ++half) {
    const uint8_t* c = codes + 128 * half;
    for (size_t i = 0; i < 32; i += 8) {
      uint64_t bytes = 0;
      for (size_t pair = 0; pair < 4; ++pair) {
        bytes |= (load_u64(c + 32 * pair + i) & 0x0303030303030303) << (2 * pair);
      }
      store_u64(out + 32 * half + i, bytes);
    }
  }
}

// Bit i / 32 of byte i % 32.
static inline void pack_bits(const uint8_t* codes, int bit, uint8_t* out) noexcept {
  for (size_t i = 0; i < 32; i += 8) {
    uint64_t bytes = 0;
    for (size_t s = 0; s < 8; ++s) bytes |= (load_u64(codes + 32 * s + i) >> bit & 0x0101010101010101) << s;
    store_u64(out + i, bytes);
  }
}

struct EncodeQ2_K {
  using Block = BlockQ2_K;
  static constexpr size_t elements = 256;
  static constexpr float limit = 15 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    using Shape = AffineShape<3, 16, 15>;
    uint8_t codes[256];
    const auto super = fit_super_affine<Shape, weighted>(x, w, kMargins4, codes);
    store_half(out.d, super.d_half);
    store_half(out.dmin, super.dmin_half);
    for (size_t j = 0; j < 16; ++j) {
      out.scales[j] = static_cast<uint8_t>(static_cast<int>(super.scale[j]) | static_cast<int>(super.min[j]) << 4);
    }
    pack_pairs(codes, out.q);
  }
};

// The twelve bytes of eight scales and mins.
template <class Shape>
static inline void pack_scales(const AffineSuper<Shape>& super, uint8_t* out) noexcept {
  for (size_t j = 0; j < 4; ++j) {
    const auto s = static_cast<unsigned>(super.scale[j]), m = static_cast<unsigned>(super.min[j]);
    const auto s4 = static_cast<unsigned>(super.scale[j + 4]), m4 = static_cast<unsigned>(super.min[j + 4]);
    out[j] = static_cast<uint8_t>(s | s4 >> 4 << 6);
    out[j + 4] = static_cast<uint8_t>(m | m4 >> 4 << 6);
    out[j + 8] = static_cast<uint8_t>((s4 & 15) | (m4 & 15) << 4);
  }
}

// Sub-block 2g in the low nibbles of group g, 2g + 1 in the high ones.
static inline void pack_groups(const uint8_t* codes, uint8_t* out) noexcept {
  for (size_t g = 0; g < 4; ++g) {
    const uint8_t* c = codes + 64 * g;
    for (size_t i = 0; i < 32; i += 8) {
      store_u64(out + 32 * g + i, (load_u64(c + i) & kNibbles) | (load_u64(c + i + 32) & kNibbles) << 4);
    }
  }
}

struct EncodeQ4_K {
  using Block = BlockQ4_K;
  static constexpr size_t elements = 256;
  static constexpr float limit = 63 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    using Shape = AffineShape<15, 32, 63>;
    uint8_t codes[256];
    const auto super = fit_super_affine<Shape, weighted>(x, w, kMargins16, codes);
    store_half(out.d, super.d_half);
    store_half(out.dmin, super.dmin_half);
    pack_scales(super, out.scales);
    pack_groups(codes, out.q);
  }
};

struct EncodeQ5_K {
  using Block = BlockQ5_K;
  static constexpr size_t elements = 256;
  static constexpr float limit = 63 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    using Shape = AffineShape<31, 32, 63>;
    uint8_t codes[256];
    const auto super = fit_super_affine<Shape, weighted>(x, w, kMargins32, codes);
    store_half(out.d, super.d_half);
    store_half(out.dmin, super.dmin_half);
    pack_scales(super, out.scales);
    pack_bits(codes, 4, out.high);
    pack_groups(codes, out.q);
  }
};

struct EncodeQ3_K {
  using Block = BlockQ3_K;
  static constexpr size_t elements = 256;
  static constexpr float limit = 31 * 3 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    using Shape = ScaledShape<Uniform<-4, 3>, 16, -32, 31>;
    static constexpr float targets[16] = {-5.5f, -5.1f, -4.8f, -4.6f, -4.4f, -4.2f, -4.0f, -3.8f,
                                          -3.6f, -3.4f, -3.2f, -2.9f, 2.1f,  2.6f,  3.7f,  4.2f};
    static constexpr float few_targets[8] = {-4.9f, -4.6f, -4.4f, -4.2f, -4.0f, -3.8f, -3.2f, -2.9f};
    static constexpr float units[8] = {-33.0f, -32.4f, -32.0f, -31.6f, -31.2f, -30.6f, 30.8f, 31.3f};
    uint8_t codes[256];
    const auto super = weighted ? fit_super_scaled<Shape, weighted>(x, w, targets, units, codes)
                                : fit_super_scaled<Shape, weighted>(x, w, few_targets, units, codes);
    store_half(out.d, super.d_half);
    memset(out.scales, 0, 12);
    for (size_t j = 0; j < 16; ++j) {
      const auto scale = static_cast<unsigned>(static_cast<int>(super.scale[j]) + 32);
      out.scales[j % 8] = static_cast<uint8_t>(out.scales[j % 8] | (scale & 15) << (j / 8 * 4));
      out.scales[8 + j % 4] = static_cast<uint8_t>(out.scales[8 + j % 4] | scale >> 4 << (j / 4 * 2));
    }
    pack_bits(codes, 2, out.high);
    pack_pairs(codes, out.q);
  }
};

struct EncodeQ6_K {
  using Block = BlockQ6_K;
  static constexpr size_t elements = 256;
  static constexpr float limit = 127 * 31 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    using Shape = ScaledShape<Uniform<-32, 31>, 16, -128, 127>;
    static constexpr float targets[24] = {-33.5f, -32.7f, -32.4f, -32, -31.7f, -31, -30.3f, -30, -29, -28, -27, -26,
                                          -25,    -24,    23,     24,  25,     26,  27,     28,  29,  30,  31,  31.3f};
    static constexpr float units[8] = {-129.0f, -128.4f, -128.0f, -127.5f, -127.0f, -126.0f, 126.5f, 127.3f};
    uint8_t codes[256];
    const auto super = fit_super_scaled<Shape, weighted>(x, w, targets, units, codes);
    store_half(out.d, super.d_half);
    for (size_t j = 0; j < 16; ++j) out.scales[j] = static_cast<int8_t>(static_cast<int>(super.scale[j]));
    for (size_t half = 0; half < 2; ++half) {
      const uint8_t* c = codes + 128 * half;
      for (size_t i = 0; i < 64; i += 8) {
        store_u64(out.low + 64 * half + i, (load_u64(c + i) & kNibbles) | (load_u64(c + i + 64) & kNibbles) << 4);
      }
    }
    for (size_t i = 0; i < 256; i += 8) store_u64(codes + i, load_u64(codes + i) >> 4 & kNibbles);
    pack_pairs(codes, out.high);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
