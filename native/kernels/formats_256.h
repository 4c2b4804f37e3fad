// The value v of one block of 256 elements with int8 activations: the formats beside Q4_K, Q5_K and Q6_K of formats.h.
// The largest integer sum is of IQ4_XS, 256 products of 127, 127 and 32: below 2^27.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

// v = d * sum_j(scale_j * sum(element x)), sub-blocks j of `width` elements
template <class BlockType, WeightType weight_type, size_t width>
struct SubScaledFormat {
  using Block = BlockType;
  static constexpr WeightType type = weight_type;
  static constexpr size_t elements = 256, sub_block = width;

  static float value(const Block& w, const int8_t* x, const int16_t*) noexcept {
    int sum = 0;
    for (size_t j = 0; j < 256 / width; ++j) {
      int dot = 0;
      for (size_t i = width * j; i < width * j + width; ++i) dot += element(w, i) * x[i];
      sum += sub_scale(w, j) * dot;
    }
    return block_scale(w) * static_cast<float>(sum);
  }
};

using Q3_K = SubScaledFormat<BlockQ3_K, WeightType::Q3_K, 16>;
using IQ4_XS = SubScaledFormat<BlockIQ4_XS, WeightType::IQ4_XS, 32>;
using IQ3_XXS = SubScaledFormat<BlockIQ3_XXS, WeightType::IQ3_XXS, 32>;

// v = fma(-dmin, sum(min x), d * sum(scale q x))
struct Q2_K {
  using Block = BlockQ2_K;
  static constexpr WeightType type = WeightType::Q2_K;
  static constexpr size_t elements = 256;

  static float value(const Block& w, const int8_t* x, const int16_t* sums) noexcept {
    int sum = 0, minimum = 0;
    for (size_t j = 0; j < 16; ++j) {
      int dot = 0;
      for (size_t i = 16 * j; i < 16 * j + 16; ++i) dot += element(w, i) * x[i];
      sum += (w.scales[j] & 15) * dot;
      minimum += (w.scales[j] >> 4) * sums[j];
    }
    const float dmin = half_to_float(load_u16(w.dmin));
    return fma(-dmin, static_cast<float>(minimum), block_scale(w) * static_cast<float>(sum));
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
