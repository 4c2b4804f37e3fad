// What the codes of a type stand for: the nearest value to each lane, and the code of a value.
#pragma once

#include "encode/lanes.h"
#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

// Integers from low to high; the code of low is 0.
template <int low, int high>
struct Uniform {
  static STEPAHEAD_INLINE Lanes nearest(const Lanes& x) noexcept {
    return nearest_integer(smaller(larger(x, all(low)), all(high)));
  }
  static STEPAHEAD_INLINE Lanes code(const Lanes& value) noexcept { return value - all(low); }
};

// kIQ4Levels: from level to level, up at each midpoint that x has passed.
struct IQ4Levels {
  static STEPAHEAD_INLINE float midpoint(size_t i) noexcept {
    return 0.5f * static_cast<float>(kIQ4Levels[i] + kIQ4Levels[i + 1]);
  }
  static STEPAHEAD_INLINE Lanes nearest(const Lanes& x) noexcept {
    Lanes out = all(kIQ4Levels[0]);
    for (size_t i = 0; i < 15; ++i) {
      out = out + where(x > all(midpoint(i)), all(static_cast<float>(kIQ4Levels[i + 1] - kIQ4Levels[i])));
    }
    return out;
  }
  static STEPAHEAD_INLINE Lanes code(const Lanes& value) noexcept {
    Lanes out = all(0.0f);
    for (size_t i = 0; i < 15; ++i) out = out + where(value > all(midpoint(i)), all(1.0f));
    return out;
  }
};

// kE2M1Doubled: 0 to 4 by ones, to 8 by twos, to 12 by fours. The sign is the code's fourth bit.
struct E2M1 {
  static STEPAHEAD_INLINE Lanes nearest_magnitude(const Lanes& x) noexcept {
    const Lanes size = magnitude(x);
    const Lanes twos = nearest_integer(size * all(0.5f)) * all(2.0f);
    const Lanes fours = smaller(nearest_integer(smaller(size, all(12.0f)) * all(0.25f)) * all(4.0f), all(12.0f));
    return select(size > all(8.0f), fours, select(size > all(4.0f), twos, nearest_integer(size)));
  }
  // The magnitude's code: itself up to 4, then 5 for 6, 6 for 8, 7 for 12.
  static STEPAHEAD_INLINE Lanes code(const Lanes& x) noexcept {
    const Lanes size = nearest_magnitude(x);
    const Lanes index = smaller(size, all(4.0f)) + where(size > all(5.0f), all(1.0f)) +
                        where(size > all(7.0f), all(1.0f)) + where(size > all(10.0f), all(1.0f));
    return index + where(all(0.0f) > x, where(size > all(0.5f), all(8.0f)));
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
