// Rows of weights to float32, with the roundings of stepahead.gguf.quants.dequantize: the scale's product first.
#pragma once

#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Type>
static void dequantize_float(const uint8_t* row, size_t n, float* y) noexcept {
  for (size_t i = 0; i < n; ++i) y[i] = Type::load(row + i * Type::bytes);
}

// y = d element
template <class Block>
static inline void dequantize_scaled(const Block& w, float* y) noexcept {
  const float d = block_scale(w);
  for (size_t i = 0; i < 32; ++i) y[i] = d * static_cast<float>(element(w, i));
}

static inline void dequantize(const BlockQ8_0& w, float* y) noexcept { dequantize_scaled(w, y); }
static inline void dequantize(const BlockQ4_0& w, float* y) noexcept { dequantize_scaled(w, y); }
static inline void dequantize(const BlockQ5_0& w, float* y) noexcept { dequantize_scaled(w, y); }
static inline void dequantize(const BlockIQ4_NL& w, float* y) noexcept { dequantize_scaled(w, y); }
static inline void dequantize(const BlockMXFP4& w, float* y) noexcept { dequantize_scaled(w, y); }

// y = d q + m
template <class Block>
static inline void dequantize_shifted(const Block& w, float* y) noexcept {
  const float d = block_scale(w), m = half_to_float(load_u16(w.m));
  for (size_t i = 0; i < 32; ++i) y[i] = d * static_cast<float>(element(w, i)) + m;
}

static inline void dequantize(const BlockQ4_1& w, float* y) noexcept { dequantize_shifted(w, y); }
static inline void dequantize(const BlockQ5_1& w, float* y) noexcept { dequantize_shifted(w, y); }

// y = (d scale) element, sub-blocks of `width`
template <size_t width, class Block>
static inline void dequantize_sub_scaled(const Block& w, float* y) noexcept {
  const float d = block_scale(w);
  for (size_t j = 0; j < 256 / width; ++j) {
    const float scale = d * static_cast<float>(sub_scale(w, j));
    for (size_t i = width * j; i < width * j + width; ++i) y[i] = scale * static_cast<float>(element(w, i));
  }
}

static inline void dequantize(const BlockQ6_K& w, float* y) noexcept { dequantize_sub_scaled<16>(w, y); }
static inline void dequantize(const BlockQ3_K& w, float* y) noexcept { dequantize_sub_scaled<16>(w, y); }
static inline void dequantize(const BlockIQ4_XS& w, float* y) noexcept { dequantize_sub_scaled<32>(w, y); }
static inline void dequantize(const BlockIQ3_XXS& w, float* y) noexcept { dequantize_sub_scaled<32>(w, y); }

// y = (d scale) q - (dmin min), sub-blocks of `width`
template <size_t width, class Block>
static inline void dequantize_scales_and_mins(const Block& w, const uint8_t* scales, const uint8_t* mins,
                                              float* y) noexcept {
  const float d = block_scale(w), dmin = half_to_float(load_u16(w.dmin));
  for (size_t j = 0; j < 256 / width; ++j) {
    const float scale = d * static_cast<float>(scales[j]), minimum = dmin * static_cast<float>(mins[j]);
    for (size_t i = width * j; i < width * j + width; ++i) y[i] = scale * static_cast<float>(element(w, i)) - minimum;
  }
}

static inline void dequantize(const BlockQ4_K& w, float* y) noexcept {
  const ScalesAndMins packed = unpack_scales(w.scales);
  dequantize_scales_and_mins<32>(w, packed.scales, packed.mins, y);
}

static inline void dequantize(const BlockQ5_K& w, float* y) noexcept {
  const ScalesAndMins packed = unpack_scales(w.scales);
  dequantize_scales_and_mins<32>(w, packed.scales, packed.mins, y);
}

static inline void dequantize(const BlockQ2_K& w, float* y) noexcept {
  uint8_t scales[16], mins[16];
  for (size_t j = 0; j < 16; ++j) {
    scales[j] = w.scales[j] & 15;
    mins[j] = w.scales[j] >> 4;
  }
  dequantize_scales_and_mins<16>(w, scales, mins, y);
}

template <class Format>
static void dequantize_blocks(const uint8_t* row, size_t n, float* y) noexcept {
  const auto* blocks = reinterpret_cast<const typename Format::Block*>(row);
  for (size_t b = 0; b < n / Format::elements; ++b) dequantize(blocks[b], y + b * Format::elements);
}

}  // namespace stepahead::STEPAHEAD_ISA
