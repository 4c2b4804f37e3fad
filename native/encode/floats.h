// F32, F16 and BF16, to nearest, ties to even.
#pragma once

#include "encode/scale_fit.h"

namespace stepahead::STEPAHEAD_ISA {

struct EncodeF32 {
  using Block = float;
  static constexpr size_t elements = 1;
  static constexpr float limit = 0x1.fffffep127f;
  template <bool weighted>
  static void encode(const float* x, const float*, Block& out) noexcept {
    out = *x;
  }
};

struct EncodeF16 {
  using Block = uint16_t;
  static constexpr size_t elements = 1;
  static constexpr float limit = 0x1.ffdffep15f;  // the last that does not round to Inf

  template <bool weighted>
  static void encode(const float* x, const float*, Block& out) noexcept {
    out = float_to_half(*x);
  }
};

struct EncodeBF16 {
  using Block = uint16_t;
  static constexpr size_t elements = 1;
  static constexpr float limit = 0x1.fefffep127f;  // likewise

  template <bool weighted>
  static void encode(const float* x, const float*, Block& out) noexcept {
    const uint32_t bits = bits_of(*x);
    out = static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
