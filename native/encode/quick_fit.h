// The same fits for blocks of 32 without weights, where rounding alone takes a nanosecond a number: eight blocks side by
// side, a lane each, and four candidates one after the other, with no way back from the best.
#pragma once

#include "encode/affine_fit.h"

namespace stepahead::STEPAHEAD_ISA {

// Element i of block b at 8 i + b; blocks that are not there are zeros.
struct EightBlocks {
  float x[32 * 8];
};

static inline void put_side_by_side(const float* x, size_t count, EightBlocks& out) noexcept {
  for (size_t b = 0; b < 8; ++b) {
    for (size_t i = 0; i < 32; ++i) out.x[8 * i + b] = b < count ? x[32 * b + i] : 0.0f;
  }
}

template <class Grid>
static inline Lanes quick_scales(const EightBlocks& blocks, const float (&targets)[4]) noexcept {
  Lanes high = load_lanes(blocks.x), low = high;
  for (size_t i = 1; i < 32; ++i) {
    high = larger(high, load_lanes(blocks.x + 8 * i));
    low = smaller(low, load_lanes(blocks.x + 8 * i));
  }
  const Lanes nothing = all(0.0f), most = select(high > nothing - low, high, low);
  const LaneMask some = magnitude(most) > all(0.5f * kNothing);
  const Lanes unit = where(some, all(1.0f) / most);
  Lanes best_gain = nothing, best_scale = nothing;
  for (const float target : targets) {
    const Lanes inverse = unit * all(target);
    Lanes xq = nothing, qq = nothing;
    for (size_t i = 0; i < 32; ++i) {
      const Lanes value = load_lanes(blocks.x + 8 * i), q = Grid::nearest(value * inverse);
      xq = xq + q * value;
      qq = qq + q * q;
    }
    const Lanes scale = where(qq > nothing, xq / qq), gain = xq * scale;
    const LaneMask better = gain > best_gain;
    best_gain = select(better, gain, best_gain);
    best_scale = select(better, scale, best_scale);
  }
  return best_scale;
}

struct QuickPairs {
  Lanes scale, offset, mean;
};

// margins: where the smallest number comes (-low) and the largest one (levels + high).
template <int levels>
static inline QuickPairs quick_pairs(const EightBlocks& blocks, const float (&low_margins)[4],
                                     const float (&high_margins)[4]) noexcept {
  const Lanes nothing = all(0.0f);
  Lanes sum = nothing, low = load_lanes(blocks.x), high = low;
  for (size_t i = 0; i < 32; ++i) {
    const Lanes value = load_lanes(blocks.x + 8 * i);
    sum = sum + value;
    low = smaller(low, value);
    high = larger(high, value);
  }
  const Lanes mean = sum * all(1.0f / 32), range = high - low;
  const Lanes unit = where(range > all(0.5f * kNothing), all(1.0f) / range);
  EightBlocks above, centred;
  for (size_t i = 0; i < 32; ++i) {
    const Lanes value = load_lanes(blocks.x + 8 * i);
    store_lanes(above.x + 8 * i, (value - low) * unit);
    store_lanes(centred.x + 8 * i, value - mean);
  }
  Lanes best_gain = nothing, best_scale = nothing, best_mean_q = nothing;
  for (size_t t = 0; t < 4; ++t) {
    const Lanes shift = all(low_margins[t]);
    const Lanes width = all(static_cast<float>(levels) + low_margins[t] + high_margins[t]);
    AffineSums sums;
    for (size_t i = 0; i < 32; ++i) {
      const Lanes q = Uniform<0, levels>::nearest(load_lanes(above.x + 8 * i) * width - shift);
      sums.q = sums.q + q;
      sums.qq = sums.qq + q * q;
      sums.xq = sums.xq + q * load_lanes(centred.x + 8 * i);
    }
    const Lanes mean_q = sums.q * all(1.0f / 32), spread = sums.qq - sums.q * mean_q;
    const Lanes scale = where(spread > nothing, sums.xq / spread), gain = sums.xq * scale;
    const LaneMask better = gain > best_gain;
    best_gain = select(better, gain, best_gain);
    best_scale = select(better, scale, best_scale);
    best_mean_q = select(better, mean_q, best_mean_q);
  }
  return {best_scale, mean - best_scale * best_mean_q, mean};
}

}  // namespace stepahead::STEPAHEAD_ISA
