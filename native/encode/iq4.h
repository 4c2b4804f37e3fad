// IQ4_NL (blocks of 32) and IQ4_XS (super-blocks of 256): sixteen levels, finer near zero.
#pragma once

#include "encode/legacy.h"
#include "encode/super_scaled.h"

namespace stepahead::STEPAHEAD_ISA {

// Where the extreme element may land: near either end, and further in or out.
static constexpr float kIQ4Targets[24] = {-159, -151, -145, -141, -135, -131, -129, -125, -121, -117, -113, -107,
                                          -101, -89,  87,   91,   99,   109,  113,  115,  121,  127,  133,  139};

struct EncodeIQ4_NL {
  using Block = BlockIQ4_NL;
  static constexpr size_t elements = 32;
  static constexpr float limit = 113 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    const uint16_t d = scale_half(fit_scale<IQ4Levels, 32, weighted>(x, w, kIQ4Targets).scale);
    store_half(out.d, d);
    uint8_t codes[32];
    codes_of<IQ4Levels, 32>(x, half_to_float(d), codes);
    pack_nibbles(codes, out.q);
  }
};

struct EncodeIQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr size_t elements = 256;
  static constexpr float limit = 31 * 113 * kLargestHalf;

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    using Shape = ScaledShape<IQ4Levels, 32, -32, 31>;
    static constexpr float units[16] = {-33.0f, -32.4f, -32.0f, -31.6f, -31.2f, -30.6f, 30.8f, 31.3f,
                                        -30.0f, -29.4f, -28.8f, -28.2f, -27.6f, -27.0f, -26.0f, -25.0f};
    uint8_t codes[256];
    const auto super = fit_super_scaled<Shape, weighted>(x, w, kIQ4Targets, units, codes);
    store_half(out.d, super.d_half);
    uint16_t high = 0;
    memset(out.low, 0, 4);
    for (size_t j = 0; j < 8; ++j) {
      const auto scale = static_cast<unsigned>(static_cast<int>(super.scale[j]) + 32);
      out.low[j / 2] = static_cast<uint8_t>(out.low[j / 2] | (scale & 15) << (j % 2 * 4));
      high = static_cast<uint16_t>(high | scale >> 4 << (2 * j));
    }
    store_half(out.high, high);
    for (size_t j = 0; j < 8; ++j) pack_nibbles(codes + 32 * j, out.q + 16 * j);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
