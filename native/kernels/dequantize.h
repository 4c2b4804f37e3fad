// Rows of weights to float32, with the roundings of stepahead.gguf.quants.dequantize: the scale's product first.
#pragma once

#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Type>
static void dequantize_float(const uint8_t* row, size_t n, float* y) noexcept {
  for (size_t i = 0; i < n; ++i) y[i] = Type::load(row + i * Type::bytes);
}

static void dequantize_q8_0(const uint8_t* row, size_t n, float* y) noexcept {
  const auto* blocks = reinterpret_cast<const BlockQ8_0*>(row);
  for (size_t b = 0; b < n / 32; ++b) {
    const float d = half_to_float(load_u16(blocks[b].d));
    for (size_t i = 0; i < 32; ++i) y[32 * b + i] = d * static_cast<float>(blocks[b].q[i]);
  }
}

static void dequantize_q4_0(const uint8_t* row, size_t n, float* y) noexcept {
  const auto* blocks = reinterpret_cast<const BlockQ4_0*>(row);
  for (size_t b = 0; b < n / 32; ++b) {
    const float d = half_to_float(load_u16(blocks[b].d));
    for (size_t i = 0; i < 32; ++i) y[32 * b + i] = d * static_cast<float>(element(blocks[b], i));
  }
}

template <class Block>
static void dequantize_scales_and_mins(const uint8_t* row, size_t n, float* y) noexcept {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  for (size_t b = 0; b < n / 256; ++b) {
    const float d = half_to_float(load_u16(blocks[b].d)), dmin = half_to_float(load_u16(blocks[b].dmin));
    const ScalesAndMins packed = unpack_scales(blocks[b].scales);
    for (size_t j = 0; j < 8; ++j) {
      const float scale = d * static_cast<float>(packed.scales[j]), minimum = dmin * static_cast<float>(packed.mins[j]);
      for (size_t i = 32 * j; i < 32 * j + 32; ++i) {
        y[256 * b + i] = scale * static_cast<float>(element(blocks[b], i)) - minimum;
      }
    }
  }
}

static void dequantize_q4_k(const uint8_t* row, size_t n, float* y) noexcept {
  dequantize_scales_and_mins<BlockQ4_K>(row, n, y);
}

static void dequantize_q5_k(const uint8_t* row, size_t n, float* y) noexcept {
  dequantize_scales_and_mins<BlockQ5_K>(row, n, y);
}

static void dequantize_q6_k(const uint8_t* row, size_t n, float* y) noexcept {
  const auto* blocks = reinterpret_cast<const BlockQ6_K*>(row);
  for (size_t b = 0; b < n / 256; ++b) {
    const float d = half_to_float(load_u16(blocks[b].d));
    for (size_t i = 0; i < 256; ++i) {
      y[256 * b + i] = (d * static_cast<float>(blocks[b].scales[i / 16])) * static_cast<float>(element(blocks[b], i));
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
