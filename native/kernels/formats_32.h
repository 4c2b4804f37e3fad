// The value v of one block of 32 elements with int8 activations: the formats beside Q8_0 and Q4_0 of formats.h.
// An element is at most 127 in size, so the sums are below 2^19 and float32 holds them exactly.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Block>
static inline int dot_of_32(const Block& w, const int8_t* x) noexcept {
  int sum = 0;
  for (size_t i = 0; i < 32; ++i) sum += element(w, i) * x[i];
  return sum;
}

// v = d * sum(element x)
template <class BlockType, WeightType weight_type>
struct ScaledFormat {
  using Block = BlockType;
  static constexpr WeightType type = weight_type;
  static constexpr size_t elements = 32;

  static float value(const Block& w, const int8_t* x, const int16_t*) noexcept {
    return block_scale(w) * static_cast<float>(dot_of_32(w, x));
  }
};

using Q5_0 = ScaledFormat<BlockQ5_0, WeightType::Q5_0>;
using IQ4_NL = ScaledFormat<BlockIQ4_NL, WeightType::IQ4_NL>;
using MXFP4 = ScaledFormat<BlockMXFP4, WeightType::MXFP4>;

// v = fma(m, sum(x), d * sum(q x))
template <class BlockType, WeightType weight_type>
struct ShiftedFormat {
  using Block = BlockType;
  static constexpr WeightType type = weight_type;
  static constexpr size_t elements = 32;

  static float value(const Block& w, const int8_t* x, const int16_t* sums) noexcept {
    const float m = half_to_float(load_u16(w.m));
    return fma(m, static_cast<float>(sums[0] + sums[1]), block_scale(w) * static_cast<float>(dot_of_32(w, x)));
  }
};

using Q4_1 = ShiftedFormat<BlockQ4_1, WeightType::Q4_1>;
using Q5_1 = ShiftedFormat<BlockQ5_1, WeightType::Q5_1>;

}  // namespace stepahead::STEPAHEAD_ISA
