// The scale s that brings s * grid nearest to the numbers of a block, by squares, weighted or not.
//
// For given codes the best scale is sum(w x q) / sum(w q q), and what it leaves of sum(w x x) is less by its gain,
// sum(w x q)^2 / sum(w q q). The codes that belong to a scale are the nearest ones. So: try scales, eight side by side;
// from the one whose codes gain most, go from codes to scale to codes while that gains.
#pragma once

#include "encode/grids.h"

namespace stepahead::STEPAHEAD_ISA {

// Numbers below half the smallest half: no scale reaches them.
static constexpr float kNothing = 0x1p-25f;
static constexpr float kLargestHalf = 65504.0f;

// More change next to nothing: the search has been near.
static constexpr size_t kRefits = 2;

struct ScaleFit {
  float scale = 0, gain = 0;
  float xq = 0, qq = 0;  // sum(w x q), sum(w q q)
};

// The element farthest from zero.
template <size_t n>
static inline float extreme(const float* x) noexcept {
  Lanes high = load_lanes(x), low = high;
  for (size_t i = 8; i < n; i += 8) {
    high = larger(high, load_lanes(x + i));
    low = smaller(low, load_lanes(x + i));
  }
  const float most = largest_lane(high), least = smallest_lane(low);
  return most > -least ? most : least;
}

// A finite half.
static inline uint16_t scale_half(float scale) noexcept {
  return float_to_half(scale > kLargestHalf ? kLargestHalf : scale < -kLargestHalf ? -kLargestHalf : scale);
}

static inline float inverse_of(float scale) noexcept { return scale == 0 ? 0.0f : 1.0f / scale; }

static inline void store_half(uint8_t* out, uint16_t half) noexcept { memcpy(out, &half, 2); }

// The best scale for the codes that belong to 1 / inverse.
template <class Grid, size_t n, bool weighted>
static inline ScaleFit refit_scale(const float* x, const float* w, float inverse) noexcept {
  Lanes xq = all(0.0f), qq = all(0.0f);
  for (size_t i = 0; i < n; i += 8) {
    const Lanes value = load_lanes(x + i), q = Grid::nearest(value * all(inverse));
    const Lanes wq = weighted ? load_lanes(w + i) * q : q;
    xq = xq + wq * value;
    qq = qq + wq * q;
  }
  ScaleFit fit;
  fit.xq = sum_lanes(xq), fit.qq = sum_lanes(qq);
  if (fit.qq > 0) fit.scale = fit.xq / fit.qq, fit.gain = fit.xq * fit.scale;
  return fit;
}

// Eight candidates at a time: those that bring the extreme element to each of the targets.
template <class Grid, size_t n, bool weighted, size_t num_targets>
static inline ScaleFit search_scale(const float* x, const float* w, const float (&targets)[num_targets]) noexcept {
  const float most = extreme<n>(x);
  if (!((most < 0 ? -most : most) >= kNothing)) return {};
  Lanes best_gain = all(0.0f), best_xq = best_gain, best_qq = best_gain;
  for (size_t t = 0; t < num_targets; t += 8) {
    const Lanes inverse = load_lanes(targets + t) / all(most);
    Lanes xq = all(0.0f), qq = all(0.0f);
    for (size_t i = 0; i < n; ++i) {
      const Lanes value = all(x[i]), q = Grid::nearest(value * inverse);
      const Lanes wq = weighted ? all(w[i]) * q : q;
      xq = xq + wq * value;
      qq = qq + wq * q;
    }
    const Lanes gain = where(qq > all(0.0f), xq * xq / qq);
    const LaneMask better = gain > best_gain;
    best_gain = select(better, gain, best_gain);
    best_xq = select(better, xq, best_xq);
    best_qq = select(better, qq, best_qq);
  }
  const size_t best = best_lane(best_gain);
  const float gain = lane(best_gain, best), xq = lane(best_xq, best), qq = lane(best_qq, best);
  if (!(gain > 0)) return {};
  return {xq / qq, gain, xq, qq};
}

// The search, and then down to where codes and scale belong to each other.
template <class Grid, size_t n, bool weighted, size_t num_targets>
static inline ScaleFit fit_scale(const float* x, const float* w, const float (&targets)[num_targets]) noexcept {
  ScaleFit best = search_scale<Grid, n, weighted>(x, w, targets);
  for (size_t round = 0; round < kRefits && best.scale != 0; ++round) {
    const ScaleFit next = refit_scale<Grid, n, weighted>(x, w, 1.0f / best.scale);
    if (!(next.gain > best.gain)) break;
    best = next;
  }
  return best;
}

// The codes of a scale.
template <class Grid, size_t n>
static inline void codes_of(const float* x, float scale, uint8_t* out) noexcept {
  const Lanes inverse = all(inverse_of(scale));
  float codes[n];
  for (size_t i = 0; i < n; i += 8) {
    store_lanes(codes + i, Grid::code(Grid::nearest(load_lanes(x + i) * inverse)));
  }
  to_bytes<n>(codes, out);
}

}  // namespace stepahead::STEPAHEAD_ISA
