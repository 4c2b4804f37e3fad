// MXFP4: blocks of 32 with a power of two for a scale. Few make sense: each is tried.
#pragma once

#include "encode/legacy.h"

namespace stepahead::STEPAHEAD_ISA {

struct EncodeMXFP4 {
  using Block = BlockMXFP4;
  static constexpr size_t elements = 32;
  static constexpr float limit = 0x1.fffffep127f;  // every finite number

  template <bool weighted>
  static float error(const float* x, const float* w, float inverse, float scale) noexcept {
    Lanes sum = all(0.0f);
    for (size_t i = 0; i < 32; i += 8) {
      const Lanes size = magnitude(load_lanes(x + i));
      const Lanes rest = size - E2M1::nearest_magnitude(size * all(inverse)) * all(scale);
      sum = sum + (weighted ? load_lanes(w + i) * rest : rest) * rest;
    }
    return sum_lanes(sum);
  }

  template <bool weighted>
  static void encode(const float* x, const float* w, Block& out) noexcept {
    float most = extreme<32>(x);
    most = most < 0 ? -most : most;
    // By a power of two, exactly, to numbers from 1 to 2, whose squares exist.
    const int biased = static_cast<int>(bits_of(most) >> 23), exponent = (biased > 0 ? biased : 1) - 127;
    const int first = -exponent / 2, second = -exponent - first;
    const Lanes by = all(float_of(static_cast<uint32_t>(first + 127) << 23)),
                then = all(float_of(static_cast<uint32_t>(second + 127) << 23));
    float near_one[32];
    for (size_t i = 0; i < 32; i += 8) store_lanes(near_one + i, load_lanes(x + i) * by * then);
    // The largest magnitude becomes 8 to 16, 4 to 8 or 2 to 4 in steps of the doubled levels.
    int shift = 3;
    float least = error<weighted>(near_one, w, 8.0f, 0.125f);
    for (int other = 2; other > 0; --other) {
      const auto steps = static_cast<float>(1 << other);
      const float candidate = error<weighted>(near_one, w, steps, 1.0f / steps);
      if (candidate < least) shift = other, least = candidate;
    }
    // y = 2^(code - 128) level; above 252 the largest levels would be Inf.
    const int exact = exponent - shift + 128, code = exact < 0 ? 0 : exact > 252 ? 252 : exact;
    out.exponent = static_cast<uint8_t>(code);
    const auto steps = all(static_cast<float>(1 << (exponent - (code - 128))));
    float q[32];
    for (size_t i = 0; i < 32; i += 8) store_lanes(q + i, E2M1::code(load_lanes(near_one + i) * steps));
    uint8_t codes[32];
    to_bytes<32>(q, codes);
    pack_nibbles(codes, out.q);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
