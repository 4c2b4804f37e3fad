// The value v of one block of each quantised format with int8 activations: what formats_lanes.h must give too.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

// v = d * sum(q x)
struct Q8_0 {
  using Block = BlockQ8_0;
  static constexpr WeightType type = WeightType::Q8_0;
  static constexpr size_t elements = 32;

  static float value(const Block& w, const int8_t* x, const int16_t*) noexcept {
    int sum = 0;
    for (size_t i = 0; i < 32; ++i) sum += w.q[i] * x[i];
    return half_to_float(load_u16(w.d)) * static_cast<float>(sum);
  }
};

// v = d * sum((q - 8) x)
struct Q4_0 {
  using Block = BlockQ4_0;
  static constexpr WeightType type = WeightType::Q4_0;
  static constexpr size_t elements = 32;

  static float value(const Block& w, const int8_t* x, const int16_t*) noexcept {
    int sum = 0;
    for (size_t i = 0; i < 32; ++i) sum += element(w, i) * x[i];
    return half_to_float(load_u16(w.d)) * static_cast<float>(sum);
  }
};

// v = fma(-dmin, sum(min x), d * sum(scale q x))
template <class BlockType, WeightType weight_type>
struct ScalesAndMinsFormat {
  using Block = BlockType;
  static constexpr WeightType type = weight_type;
  static constexpr size_t elements = 256;

  static float value(const Block& w, const int8_t* x, const int16_t* sums) noexcept {
    const ScalesAndMins packed = unpack_scales(w.scales);
    int sum = 0, minimum = 0;
    for (size_t j = 0; j < 8; ++j) {
      int dot = 0;
      for (size_t i = 32 * j; i < 32 * j + 32; ++i) dot += element(w, i) * x[i];
      sum += packed.scales[j] * dot;
      minimum += packed.mins[j] * (sums[2 * j] + sums[2 * j + 1]);
    }
    const float d = half_to_float(load_u16(w.d)), dmin = half_to_float(load_u16(w.dmin));
    return fma(-dmin, static_cast<float>(minimum), d * static_cast<float>(sum));
  }
};

using Q4_K = ScalesAndMinsFormat<BlockQ4_K, WeightType::Q4_K>;
using Q5_K = ScalesAndMinsFormat<BlockQ5_K, WeightType::Q5_K>;

// v = d * sum(scale (q - 32) x)
struct Q6_K {
  using Block = BlockQ6_K;
  static constexpr WeightType type = WeightType::Q6_K;
  static constexpr size_t elements = 256;

  static float value(const Block& w, const int8_t* x, const int16_t*) noexcept {
    int sum = 0;
    for (size_t j = 0; j < 16; ++j) {
      int dot = 0;
      for (size_t i = 16 * j; i < 16 * j + 16; ++i) dot += element(w, i) * x[i];
      sum += w.scales[j] * dot;
    }
    return half_to_float(load_u16(w.d)) * static_cast<float>(sum);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
