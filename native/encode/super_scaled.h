// Super-blocks of 256 whose sub-blocks have a signed scale in a few bits: y = d scale value(q).
//
// Each sub-block is fitted alone; its scale becomes an integer of a common d; then each sub-block takes the best
// integer near its own for the number that d is, and d becomes the best for the integers and codes of all. Once: a
// second time brings nothing.
#pragma once

#include "encode/scale_fit.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Grid_, size_t size_, int low_, int high_>
struct ScaledShape {
  using Grid = Grid_;
  static constexpr size_t size = size_;
  static constexpr size_t count = 256 / size;
  static constexpr int low = low_, high = high_;  // of the scales
};

template <class Shape>
struct ScaledSuper {
  uint16_t d_half = 0;
  float d = 0;                     // what the half is
  float scale[Shape::count] = {};  // integers

  void set(float new_d) noexcept {
    d_half = scale_half(new_d);
    d = half_to_float(d_half);
  }
};

// The best of eight scales near `scale`, for the d that is. Returns what its codes sum to.
template <class Shape, bool weighted>
static inline ScaleFit best_scale(const float* x, const float* w, float d, float& scale) noexcept {
  static constexpr float steps[8] = {0, 1, -1, 2, -2, 3, -3, 4};
  const Lanes scales = smaller(larger(all(scale) + load_lanes(steps), all(Shape::low)), all(Shape::high));
  const Lanes s = scales * all(d), inverse = where(magnitude(s) > all(0.0f), all(1.0f) / s);
  Lanes xq = all(0.0f), qq = all(0.0f);
  for (size_t i = 0; i < Shape::size; ++i) {
    const Lanes value = all(x[i]), q = Shape::Grid::nearest(value * inverse);
    const Lanes wq = weighted ? all(w[i]) * q : q;
    xq = xq + wq * value;
    qq = qq + wq * q;
  }
  const Lanes gain = s * (xq + xq - s * qq);
  const size_t best = best_lane(gain);
  scale = lane(scales, best);
  return {0, lane(gain, best), lane(xq, best), lane(qq, best)};
}

// targets: where the extreme element of a sub-block may land, and the extreme scale of the block.
template <class Shape, bool weighted, size_t num_targets, size_t num_scale_targets>
static inline ScaledSuper<Shape> fit_super_scaled(const float* x, const float* w, const float (&targets)[num_targets],
                                                  const float (&scale_targets)[num_scale_targets],
                                                  uint8_t* codes) noexcept {
  ScaledSuper<Shape> super;
  float scales[Shape::count], weights[Shape::count];
  for (size_t j = 0; j < Shape::count; ++j) {
    const size_t at = j * Shape::size;
    const ScaleFit fit = fit_scale<typename Shape::Grid, Shape::size, weighted>(x + at, w + at, targets);
    scales[j] = fit.scale, weights[j] = fit.qq;
  }
  super.set(fit_scale<Uniform<Shape::low, Shape::high>, Shape::count, true>(scales, weights, scale_targets).scale);
  for (size_t j = 0; j < Shape::count; ++j) {
    const float most = Shape::high, least = Shape::low, exact = scales[j] * inverse_of(super.d);
    super.scale[j] = ((exact > most ? most : exact < least ? least : exact) + kRounder) - kRounder;
  }
  double xq = 0, qq = 0;
  for (size_t j = 0; j < Shape::count; ++j) {
    const size_t at = j * Shape::size;
    const ScaleFit fit = best_scale<Shape, weighted>(x + at, w + at, super.d, super.scale[j]);
    xq += double{super.scale[j]} * fit.xq;
    qq += double{super.scale[j]} * super.scale[j] * fit.qq;
  }
  if (qq > 0) super.set(static_cast<float>(xq / qq));
  for (size_t j = 0; j < Shape::count; ++j) {
    codes_of<typename Shape::Grid, Shape::size>(x + j * Shape::size, super.scale[j] * super.d, codes + j * Shape::size);
  }
  return super;
}

}  // namespace stepahead::STEPAHEAD_ISA
