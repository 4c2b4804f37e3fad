// Super-blocks of 256 whose sub-blocks have a scale and a min in a few bits: y = d scale q - dmin min.
//
// Each sub-block is fitted alone; its scales and mins become integers of a common d and dmin, the scales first and the
// mins to suit them; then, alternately, each sub-block takes the best integers near its own for the numbers that d and
// dmin are, and d and dmin become the best for the integers and codes of all sub-blocks.
#pragma once

#include "encode/affine_fit.h"

namespace stepahead::STEPAHEAD_ISA {

template <int levels_, size_t size_, int most_>
struct AffineShape {
  static constexpr int levels = levels_;       // codes are 0 to levels
  static constexpr size_t size = size_;        // of a sub-block
  static constexpr size_t count = 256 / size;  // of sub-blocks
  static constexpr int most = most_;           // scales and mins are 0 to most
};

template <class Shape>
struct AffineSuper {
  uint16_t d_half = 0, dmin_half = 0;
  float d = 0, dmin = 0;                                   // what the halves are
  float scale[Shape::count] = {}, min[Shape::count] = {};  // integers

  void set(float new_d, float new_dmin) noexcept {
    d_half = scale_half(new_d), dmin_half = scale_half(new_dmin);
    d = half_to_float(d_half), dmin = half_to_float(dmin_half);
  }
};

static inline float integer_within(float x, float most) noexcept {
  const float clipped = x > 0 ? x : 0.0f;
  return ((clipped < most ? clipped : most) + kRounder) - kRounder;
}

// Integers of a common unit for positive numbers whose errors weigh w.
template <class Shape>
static inline float common_unit(const float* x, const float* w) noexcept {
  constexpr float most = Shape::most;
  static constexpr float targets[8] = {most - 0.75f, most - 0.5f, most - 0.25f, most,
                                       most + 0.2f,  most + 0.4f, most + 0.8f,  most + 1.2f};
  return fit_scale<Uniform<0, Shape::most>, Shape::count, true>(x, w, targets).scale;
}

template <class Shape>
static inline void join_fits(const AffineFit* fits, AffineSuper<Shape>& super) noexcept {
  float x[Shape::count], w[Shape::count];
  for (size_t j = 0; j < Shape::count; ++j) {
    const AffineFit& fit = fits[j];
    x[j] = fit.scale > 0 ? fit.scale : 0;
    // A wrong scale hurts less where the min can make up for it.
    const float spread = fit.qq - fit.q * (fit.q / fit.ww);
    w[j] = fit.offset < 0 ? spread : fit.qq;
    if (!(w[j] > 0)) w[j] = 0;
  }
  super.set(common_unit<Shape>(x, w), 0);
  for (size_t j = 0; j < Shape::count; ++j) {
    super.scale[j] = integer_within(x[j] * inverse_of(super.d), Shape::most);
    const float min = (super.scale[j] * super.d - x[j]) * (fits[j].q / fits[j].ww) - fits[j].offset;
    x[j] = min > 0 ? min : 0;
    w[j] = fits[j].ww;
  }
  super.set(super.d, common_unit<Shape>(x, w));
  for (size_t j = 0; j < Shape::count; ++j) super.min[j] = integer_within(x[j] * inverse_of(super.dmin), Shape::most);
}

// Steps to try from a sub-block's scale, and from the min that suits the new scale.
static constexpr float kScaleSteps[16] = {0, 0, 0, 1, 1, 1, -1, -1, -1, 2, 2, 2, -2, -2, -2, 0};
static constexpr float kMinSteps[16] = {0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1, 2};

template <class Shape, bool weighted>
static inline void best_neighbour(const float* x, const float* w, float mean_q, float d, float dmin, float& scale,
                                  float& min) noexcept {
  const float slope = mean_q * d * inverse_of(dmin);  // mins that a step of the scale is worth
  Lanes best_error = all(0.0f), best_scale = all(scale), best_min = all(min);
  for (size_t c = 0; c < 16; c += 8) {
    const Lanes step = load_lanes(kScaleSteps + c);
    const Lanes most = all(Shape::most), nothing = all(0.0f);
    const Lanes scales = smaller(larger(all(scale) + step, nothing), most);
    const Lanes shift = nearest_integer(smaller(larger(step * all(slope), all(-64.0f)), all(64.0f)));
    const Lanes mins = smaller(larger(all(min) + shift + load_lanes(kMinSteps + c), nothing), most);
    const Lanes s = scales * all(d), m = mins * all(dmin);
    const Lanes inverse = where(magnitude(s) > nothing, all(1.0f) / s);
    Lanes error = nothing;
    for (size_t i = 0; i < Shape::size; ++i) {
      const Lanes value = all(x[i]) + m;
      const Lanes rest = value - Uniform<0, Shape::levels>::nearest(value * inverse) * s;
      error = error + (weighted ? all(w[i]) * rest : rest) * rest;
    }
    const LaneMask better = best_error > error;
    best_error = c == 0 ? error : select(better, error, best_error);
    best_scale = c == 0 ? scales : select(better, scales, best_scale);
    best_min = c == 0 ? mins : select(better, mins, best_min);
  }
  const size_t best = best_lane(all(0.0f) - best_error);
  scale = lane(best_scale, best), min = lane(best_min, best);
}

struct CodeSums {
  float ww = 0, x = 0, q = 0, qq = 0, xq = 0;
};

template <class Shape, bool weighted>
static inline CodeSums sums_of_codes(const float* x, const float* w, float scale, float min) noexcept {
  const Lanes inverse = all(inverse_of(scale)), m = all(min);
  Lanes sums[5] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  for (size_t i = 0; i < Shape::size; i += 8) {
    const Lanes value = load_lanes(x + i), q = Uniform<0, Shape::levels>::nearest((value + m) * inverse);
    const Lanes weight = weighted ? load_lanes(w + i) : all(1.0f), wq = weight * q;
    sums[0] = sums[0] + weight;
    sums[1] = sums[1] + weight * value;
    sums[2] = sums[2] + wq;
    sums[3] = sums[3] + wq * q;
    sums[4] = sums[4] + wq * value;
  }
  return {sum_lanes(sums[0]), sum_lanes(sums[1]), sum_lanes(sums[2]), sum_lanes(sums[3]), sum_lanes(sums[4])};
}

// The best d and dmin for the integers and codes of all sub-blocks.
template <class Shape>
static inline void refit_units(const CodeSums* sums, AffineSuper<Shape>& super) noexcept {
  double ss = 0, sm = 0, mm = 0, sx = 0, mx = 0;
  for (size_t j = 0; j < Shape::count; ++j) {
    const double s = super.scale[j], m = super.min[j];
    ss += s * s * sums[j].qq;
    sm += s * m * sums[j].q;
    mm += m * m * sums[j].ww;
    sx += s * sums[j].xq;
    mx += m * sums[j].x;
  }
  // ss d - sm dmin = sx, -sm d + mm dmin = -mx
  const double determinant = ss * mm - sm * sm;
  if (determinant > 1e-6 * ss * mm) {
    const double d = (sx * mm - sm * mx) / determinant, dmin = (sx * sm - ss * mx) / determinant;
    if (d > 0 && dmin > 0) super.set(static_cast<float>(d), static_cast<float>(dmin));
  } else if (mm == 0 && ss > 0 && sx > 0) {
    super.set(static_cast<float>(sx / ss), 0);
  } else if (ss == 0 && mm > 0 && mx < 0) {
    super.set(0, static_cast<float>(-mx / mm));
  }
}

// A third round brings a thousandth.
static constexpr size_t kAffineRounds = 2;

template <class Shape, bool weighted, size_t num_margins>
static inline AffineSuper<Shape> fit_super_affine(const float* x, const float* w, const Margins (&margins)[num_margins],
                                                  uint8_t* codes) noexcept {
  AffineSuper<Shape> super;
  AffineFit fits[Shape::count];
  CodeSums sums[Shape::count];
  for (size_t j = 0; j < Shape::count; ++j) {
    const size_t at = j * Shape::size;
    fits[j] = fit_affine<Shape::levels, Shape::size, weighted, true>(x + at, w + at, margins);
    sums[j].ww = fits[j].ww, sums[j].q = fits[j].q;
  }
  join_fits(fits, super);
  for (size_t round = 0; round < kAffineRounds; ++round) {
    for (size_t j = 0; j < Shape::count; ++j) {
      const size_t at = j * Shape::size;
      best_neighbour<Shape, weighted>(x + at, w + at, sums[j].q / sums[j].ww, super.d, super.dmin, super.scale[j],
                                      super.min[j]);
      sums[j] = sums_of_codes<Shape, weighted>(x + at, w + at, super.scale[j] * super.d, super.min[j] * super.dmin);
    }
    refit_units(sums, super);
  }
  for (size_t j = 0; j < Shape::count; ++j) {
    const size_t at = j * Shape::size;
    const Lanes inverse = all(inverse_of(super.scale[j] * super.d)), m = all(super.min[j] * super.dmin);
    float q[Shape::size];
    for (size_t i = 0; i < Shape::size; i += 8) {
      store_lanes(q + i, Uniform<0, Shape::levels>::nearest((load_lanes(x + at + i) + m) * inverse));
    }
    to_bytes<Shape::size>(q, codes + at);
  }
  return super;
}

}  // namespace stepahead::STEPAHEAD_ISA
