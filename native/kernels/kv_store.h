// One head's keys or values into the KV cache, and the q8_0 rows that attention reads back.
#pragma once

#include "kernels/blocks.h"
#include "kernels/quantize_row.h"

namespace stepahead::STEPAHEAD_ISA {

static void kv_store_f32(const float* x, size_t head_dim, uint8_t* out) noexcept { memcpy(out, x, head_dim * 4); }

static void kv_store_f16(const float* x, size_t head_dim, uint8_t* out) noexcept {
  size_t i = 0;
#if defined(STEPAHEAD_VECTOR_AVX2)
  for (; i + 8 <= head_dim; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < head_dim; ++i) {
    const uint16_t half = float_to_half(x[i]);
    memcpy(out + 2 * i, &half, 2);
  }
}

// Blocks of Q8_0: d = amax / 127 rounded to binary16, q = rint(x * (1 / d)) within [-127, 127]. A block that holds an
// Inf or NaN, or whose d overflows, reads back as NaN; one whose d underflows as zeros.
static void kv_store_q8_0(const float* x, size_t head_dim, uint8_t* out) noexcept {
  auto* blocks = reinterpret_cast<BlockQ8_0*>(out);
  for (size_t b = 0; b < head_dim / 32; ++b) {
    const uint32_t amax_bits = largest_magnitude(x + 32 * b, 32);
    const uint16_t half = amax_bits >= 0x7F800000 ? 0x7E00 : float_to_half(float_of(amax_bits) / 127.0f);
    const float d = half_to_float(half);
    memcpy(blocks[b].d, &half, 2);
    if (half == 0 || half >= 0x7C00) {
      memset(blocks[b].q, 0, 32);
    } else {
      quantize_values(x + 32 * b, 32, 1.0f / d, blocks[b].q);
    }
  }
}

}  // namespace stepahead::STEPAHEAD_ISA
