// F32, F16 and BF16, to nearest, ties to even.
#pragma once

#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

struct EncodeF32 {
  using Block = float;
  static constexpr size_t elements = 1;
  static constexpr float limit = 0x1.fffffep127f;

  static STEPAHEAD_INLINE float encode(float x) noexcept { return x; }
};

struct EncodeF16 {
  using Block = uint16_t;
  static constexpr size_t elements = 1;
  static constexpr float limit = 0x1.ffdffep15f;  // the last that does not round to Inf

  static STEPAHEAD_INLINE uint16_t encode(float x) noexcept { return float_to_half(x); }
};

struct EncodeBF16 {
  using Block = uint16_t;
  static constexpr size_t elements = 1;
  static constexpr float limit = 0x1.fefffep127f;  // likewise

  static STEPAHEAD_INLINE uint16_t encode(float x) noexcept {
    const uint32_t bits = bits_of(x);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
