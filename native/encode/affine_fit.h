// The scale s and the offset m that bring s q + m, q from 0 to `levels`, nearest to the numbers of a block, by squares,
// weighted or not. As for a scale alone (scale_fit.h): try pairs, eight side by side, then go from codes to the best
// pair for them and back. All sums are of numbers less their mean, which keeps a small spread far from zero precise.
#pragma once

#include "encode/scale_fit.h"

namespace stepahead::STEPAHEAD_ISA {

struct AffineFit {
  float scale = 0, offset = 0, gain = 0;
  float ww = 0, q = 0, qq = 0;  // sum(w), sum(w q), sum(w q q)
};

// Where a candidate brings the smallest number (-low) and the largest one (levels + high).
struct Margins {
  float low[8], high[8];
};

// Chosen one after the other, each for what it adds to those before, on blocks of gaussian, Laplace and student t
// numbers, with weights; the first eight do most.
static constexpr Margins kMargins16[3] = {
    {{0.15f, -0.15f, 0.45f, 0, 0.4f, 0.9f, 0, 0.15f},
     {0.15f, 0.6f, -0.15f, 0.3f, -0.85f, 0.3f, -0.6f, 1.05f}},
    {{0.6f, 0, 1.2f, 0.4f, 0.3f, 0.3f, 0.45f, -0.3f},
     {0.6f, -0.15f, 0, -1.6f, 0.75f, -0.6f, 0.15f, 0}},
    {{-0.15f, 0.75f, 0.4f, 1.2f, 0.15f, 0, 0, 0},
     {1.2f, -0.15f, -1.15f, 0.45f, -0.3f, 0, -1, -2}}};
static constexpr Margins kMargins32[3] = {
    {{0.15f, 0.3f, -0.15f, 0.45f, 0.4f, 0.4f, 0, 0},
     {0.15f, -0.6f, 0.3f, -0.15f, -1.6f, -1, -0.6f, 0.9f}},
    {{0.3f, -0.15f, 0.9f, 0.3f, 0.6f, 0.4f, 1.2f, -0.3f},
     {0, -0.15f, 0, 0.6f, 0.45f, -0.7f, -0.15f, 0.45f}},
    {{0.4f, 0, -0.15f, -0.15f, -0.15f, 0, 0, 0},
     {-1.3f, -0.3f, 1.2f, -0.6f, 0.15f, 0, -1, -2}}};
static constexpr Margins kMargins4[3] = {
    {{0.4f, 0.1f, 0.7f, 0, 0.9f, 0.3f, -0.2f, 0.5f},
     {0.4f, 0.8f, 0.1f, 0.1f, -0.2f, 0.7f, 0.9f, 0.2f}},
    {{0.5f, 0.9f, 0.2f, -0.2f, 0.9f, 0.7f, -0.5f, 0.9f},
     {-0.5f, 0.7f, -0.2f, 0.2f, 0.1f, 0.9f, 0.9f, -0.4f}},
    {{0.9f, 0, 0.2f, 0.3f, -0.3f, 0, 0, 0},
     {0.3f, 0.9f, -0.5f, 0.9f, 0.9f, 0, -1, -2}}};
template <size_t n>
struct Centred {
  float x[n];      // less the mean
  float above[n];  // less the number that code 0 stands for where the margin is 0
  float mean = 0, ww = 0, low = 0, range = 0;
};

// below_zero: the offset may not be positive.
template <size_t n, bool weighted, bool below_zero>
static inline void centre(const float* x, const float* w, Centred<n>& out) noexcept {
  Lanes ww = all(0.0f), wx = ww, low = load_lanes(x), high = low;
  for (size_t i = 0; i < n; i += 8) {
    const Lanes value = load_lanes(x + i);
    if (weighted) ww = ww + load_lanes(w + i);
    wx = wx + (weighted ? load_lanes(w + i) * value : value);
    low = smaller(low, value);
    high = larger(high, value);
  }
  const float least = smallest_lane(low);
  out.low = below_zero && least > 0 ? 0.0f : least;
  out.range = largest_lane(high) - out.low;
  out.ww = weighted ? sum_lanes(ww) : static_cast<float>(n);
  out.mean = sum_lanes(wx) / out.ww;
  for (size_t i = 0; i < n; i += 8) {
    const Lanes value = load_lanes(x + i);
    store_lanes(out.x + i, value - all(out.mean));
    store_lanes(out.above + i, value - all(out.low));
  }
}

// Sums of eight candidates, or of eight parts of one.
struct AffineSums {
  Lanes q = all(0.0f), qq = all(0.0f), xq = all(0.0f);
};

// Where the offset may not be above zero, a pair that would have one there does without.
template <bool below_zero, size_t n>
static STEPAHEAD_INLINE Lanes gain_of(const Centred<n>& block, const AffineSums& sums) noexcept {
  const Lanes mean_q = sums.q * all(1.0f / block.ww), spread = sums.qq - sums.q * mean_q;
  const Lanes nothing = all(0.0f);
  Lanes gain = where(spread > nothing, sums.xq * sums.xq / spread);
  if constexpr (below_zero) {
    const Lanes scale = sums.xq / spread, mean = all(block.mean);
    const Lanes plain = sums.xq + mean * sums.q;
    const Lanes alone = plain * plain / sums.qq - all(block.ww) * mean * mean;
    gain = select(mean > scale * mean_q, where(sums.qq > nothing, alone), gain);
  }
  return gain;
}

template <bool below_zero, size_t n>
static inline AffineFit pair_of(const Centred<n>& block, float q, float qq, float xq, float gain) noexcept {
  const float mean_q = q / block.ww, spread = qq - q * mean_q;
  AffineFit fit;
  fit.gain = gain, fit.ww = block.ww, fit.q = q, fit.qq = qq;
  fit.scale = spread > 0 ? xq / spread : 0;
  fit.offset = block.mean - fit.scale * mean_q;
  if (below_zero && fit.offset > 0) {
    fit.offset = 0;
    fit.scale = qq > 0 ? (xq + block.mean * q) / qq : 0;
  }
  return fit;
}

template <int levels, size_t n, bool weighted, bool below_zero, size_t num_margins>
static inline AffineFit search_affine(const Centred<n>& block, const float* w,
                                      const Margins (&margins)[num_margins]) noexcept {
  if (!(block.range >= kNothing)) {
    AffineFit flat;
    flat.ww = block.ww;
    flat.offset = below_zero && block.mean > 0 ? 0 : block.mean;
    return flat;
  }
  const float step = 1.0f / block.range;
  Lanes best_gain = all(-1.0f);
  AffineSums best;
  for (const Margins& margin : margins) {
    const Lanes shift = load_lanes(margin.low);
    const Lanes inverse = (all(levels) + shift + load_lanes(margin.high)) * all(step);
    AffineSums sums;
    for (size_t i = 0; i < n; ++i) {
      const Lanes q = Uniform<0, levels>::nearest(all(block.above[i]) * inverse - shift);
      const Lanes wq = weighted ? all(w[i]) * q : q;
      sums.q = sums.q + wq;
      sums.qq = sums.qq + wq * q;
      sums.xq = sums.xq + wq * all(block.x[i]);
    }
    const Lanes gain = gain_of<below_zero>(block, sums);
    const LaneMask better = gain > best_gain;
    best_gain = select(better, gain, best_gain);
    best.q = select(better, sums.q, best.q);
    best.qq = select(better, sums.qq, best.qq);
    best.xq = select(better, sums.xq, best.xq);
  }
  const size_t at = best_lane(best_gain);
  return pair_of<below_zero>(block, lane(best.q, at), lane(best.qq, at), lane(best.xq, at), lane(best_gain, at));
}

// The best pair for the codes of (scale, offset).
template <int levels, size_t n, bool weighted, bool below_zero>
static inline AffineFit refit_affine(const Centred<n>& block, const float* w, float scale, float offset) noexcept {
  const Lanes inverse = all(inverse_of(scale)), mean = all(block.mean - offset);
  AffineSums sums;
  for (size_t i = 0; i < n; i += 8) {
    const Lanes x = load_lanes(block.x + i);
    const Lanes q = Uniform<0, levels>::nearest((x + mean) * inverse);
    const Lanes wq = weighted ? load_lanes(w + i) * q : q;
    sums.q = sums.q + wq;
    sums.qq = sums.qq + wq * q;
    sums.xq = sums.xq + wq * x;
  }
  AffineSums total;
  total.q = all(sum_lanes(sums.q)), total.qq = all(sum_lanes(sums.qq)), total.xq = all(sum_lanes(sums.xq));
  return pair_of<below_zero>(block, lane(total.q, 0), lane(total.qq, 0), lane(total.xq, 0),
                             lane(gain_of<below_zero>(block, total), 0));
}

template <int levels, size_t n, bool weighted, bool below_zero, size_t num_margins>
static inline AffineFit fit_affine(const float* x, const float* w,
                                   const Margins (&margins)[num_margins]) noexcept {
  Centred<n> block;
  centre<n, weighted, below_zero>(x, w, block);
  AffineFit best = search_affine<levels, n, weighted, below_zero>(block, w, margins);
  for (size_t round = 0; round < kRefits && best.scale != 0; ++round) {
    const AffineFit next = refit_affine<levels, n, weighted, below_zero>(block, w, best.scale, best.offset);
    if (!(next.gain > best.gain)) break;
    best = next;
  }
  return best;
}

}  // namespace stepahead::STEPAHEAD_ISA
