// The values v of formats.h for sixteen output rows as lanes, and R activation rows that share the unpacking. A lane's
// sums are those of one output: products of unsigned weights (an offset makes them so) and int8 by vpdpbusd, an int32
// each sub-block, then its scale.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/formats.h"
#include "kernels/transpose.h"

namespace stepahead::STEPAHEAD_ISA {

// dot[r] += w . x, for the four activations at k
template <size_t R>
static STEPAHEAD_INLINE void add_products(__m512i* dot, __m512i w, const ActivationRow* rows, size_t k) noexcept {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], w, broadcast_4(rows[r].q + k));
}

// dot[r] = the sum of x in the pair of blocks of 16 at `pair`, weighted by the two int16 of `weights`
template <size_t R>
static STEPAHEAD_INLINE void start_products(__m512i* dot, int weights, const ActivationRow* rows,
                                            size_t pair) noexcept {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    dot[r] = _mm512_dpwssd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(weights), broadcast_4(rows[r].sums + pair));
  }
}

// sum[r] += scale * dot[r]
template <size_t R>
static STEPAHEAD_INLINE void add_scaled_products(__m512i* sum, __m512i scale, const __m512i* dot) noexcept {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) sum[r] = _mm512_add_epi32(sum[r], _mm512_mullo_epi32(scale, dot[r]));
}

template <size_t R>
static STEPAHEAD_INLINE void set_zero(__m512i* sums) noexcept {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) sums[r] = _mm512_setzero_si512();
}

template <size_t R>
static STEPAHEAD_INLINE void scale_to_float(__m512 d, const __m512i* sum, __m512* v) noexcept {
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) v[r] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(sum[r]));
}

// The halves at byte `offset` of sixteen blocks.
template <class Block>
static STEPAHEAD_INLINE __m512 load_16_halves(const BlockColumn<Block>& w, size_t offset) noexcept {
  return _mm512_insertf32x8(_mm512_castps256_ps512(load_halves(w.rows, w.b, offset)),
                            load_halves(w.rows + 8, w.b, offset), 1);
}

template <class Format>
struct InLanes;

template <>
struct InLanes<Q8_0> {
  template <size_t R>
  static STEPAHEAD_INLINE void values(const BlockColumn<BlockQ8_0>& w, const ActivationRow* rows, __m512* v) noexcept {
    // q + 128 is unsigned: 128 sum(x) too much
    __m512i dot[R], q[8];
    w.prefetch_ahead();
    start_products<R>(dot, static_cast<int>(0xFF80FF80), rows, 2 * w.b);
    transpose_32_bytes(w, offsetof(BlockQ8_0, q), q);
#pragma GCC unroll 8
    for (size_t c = 0; c < 8; ++c) {
      add_products<R>(dot, _mm512_xor_si512(q[c], _mm512_set1_epi8(-128)), rows, 32 * w.b + 4 * c);
    }
    scale_to_float<R>(load_16_halves(w, offsetof(BlockQ8_0, d)), dot, v);
  }
};

template <>
struct InLanes<Q4_0> {
  template <size_t R>
  static STEPAHEAD_INLINE void values(const BlockColumn<BlockQ4_0>& w, const ActivationRow* rows, __m512* v) noexcept {
    __m512i dot[R], q[4];
    w.prefetch_ahead();
    start_products<R>(dot, static_cast<int>(0xFFF8FFF8), rows, 2 * w.b);
    transpose_16_bytes(w, offsetof(BlockQ4_0, q), q);
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (size_t c = 0; c < 4; ++c) {
      add_products<R>(dot, _mm512_and_si512(q[c], low), rows, 32 * w.b + 4 * c);
      add_products<R>(dot, _mm512_and_si512(_mm512_srli_epi16(q[c], 4), low), rows, 32 * w.b + 16 + 4 * c);
    }
    scale_to_float<R>(load_16_halves(w, offsetof(BlockQ4_0, d)), dot, v);
  }
};

template <class Block, WeightType type>
struct InLanes<ScalesAndMinsFormat<Block, type>> {
  template <size_t R>
  static STEPAHEAD_INLINE void values(const BlockColumn<Block>& w, const ActivationRow* rows, __m512* v) noexcept {
    __m512i head[4];  // d and dmin, then the packed scales
    transpose_16_bytes(w, 0, head);
    __m512i scale[8], minimum[8];
    unpack_scales(head + 1, scale, minimum);
    __m512i sum[R], least[R];
    sum_products<R>(w, rows, scale, sum);
    set_zero<R>(least);
    for (size_t j = 0; j < 8; ++j) {
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) {
        least[r] = _mm512_dpwssd_epi32(least[r], minimum[j], broadcast_4(rows[r].sums + 16 * w.b + 2 * j));
      }
    }
    scale_to_float<R>(low_halves(head[0]), sum, v);
    const __m512 dmin = low_halves(_mm512_srli_epi32(head[0], 16));
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) v[r] = _mm512_fnmadd_ps(dmin, _mm512_cvtepi32_ps(least[r]), v[r]);
  }

 private:
  // Scales as int32; a min twice as int16, against the two sums of 16 in a sub-block.
  static STEPAHEAD_INLINE void unpack_scales(const __m512i* packed, __m512i* scale, __m512i* minimum) noexcept {
    const __m512i six = _mm512_set1_epi8(0x3F), low = _mm512_set1_epi8(15), top = _mm512_set1_epi8(0x30);
    const auto upper = [&](__m512i tail, __m512i bits) {
      return _mm512_or_si512(_mm512_and_si512(tail, low), _mm512_and_si512(_mm512_srli_epi32(bits, 2), top));
    };
    const __m512i scales[2] = {_mm512_and_si512(packed[0], six), upper(packed[2], packed[0])};
    const __m512i mins[2] = {_mm512_and_si512(packed[1], six), upper(_mm512_srli_epi32(packed[2], 4), packed[1])};
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      scale[j] = byte_of_dwords(scales[j / 4], j % 4, false);
      minimum[j] = byte_of_dwords(mins[j / 4], j % 4, true);
    }
  }

  template <size_t R>
  static STEPAHEAD_INLINE void sum_products(const BlockColumn<Block>& w, const ActivationRow* rows,
                                            const __m512i* scale, __m512i* sum) noexcept {
    constexpr bool five = sizeof(Block) == sizeof(BlockQ5_K);
    const __m512i low = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
    __m512i high[8];  // bit 0 and 1: of the sub-blocks 2g and 2g + 1
    if constexpr (five) transpose_32_bytes(w, offsetof(BlockQ5_K, high), high);
    set_zero<R>(sum);
    for (size_t g = 0; g < 4; ++g) {
      __m512i q[8], even[R], odd[R];
      w.template prefetch_next<4>(g);
      transpose_32_bytes(w, offsetof(Block, q) + 32 * g, q);
      set_zero<R>(even);
      set_zero<R>(odd);
#pragma GCC unroll 8
      for (size_t c = 0; c < 8; ++c) {
        __m512i a = _mm512_and_si512(q[c], low), b = _mm512_and_si512(_mm512_srli_epi16(q[c], 4), low);
        if constexpr (five) {
          a = _mm512_or_si512(a, _mm512_and_si512(_mm512_slli_epi16(high[c], 4), fifth));
          b = _mm512_or_si512(b, _mm512_and_si512(_mm512_slli_epi16(high[c], 3), fifth));
          high[c] = _mm512_srli_epi16(high[c], 2);
        }
        add_products<R>(even, a, rows, 256 * w.b + 64 * g + 4 * c);
        add_products<R>(odd, b, rows, 256 * w.b + 64 * g + 32 + 4 * c);
      }
      add_scaled_products<R>(sum, scale[2 * g], even);
      add_scaled_products<R>(sum, scale[2 * g + 1], odd);
    }
  }
};

template <>
struct InLanes<Q6_K> {
  template <size_t R>
  static STEPAHEAD_INLINE void values(const BlockColumn<BlockQ6_K>& w, const ActivationRow* rows, __m512* v) noexcept {
    __m512i packed[4], scale[16], sum[R];
    transpose_16_bytes(w, offsetof(BlockQ6_K, scales), packed);
#pragma GCC unroll 16
    for (unsigned j = 0; j < 16; ++j) {
      scale[j] = _mm512_srai_epi32(_mm512_slli_epi32(packed[j / 4], 24 - 8 * (j % 4)), 24);
    }
    set_zero<R>(sum);
    for (size_t half = 0; half < 2; ++half) {
      __m512i high[8];
      transpose_32_bytes(w, offsetof(BlockQ6_K, high) + 32 * half, high);
      for (size_t s = 0; s < 2; ++s) {  // the bit pairs s and s + 2 of `high`
        __m512i low[8];
        w.template prefetch_next<4>(2 * half + s);
        transpose_32_bytes(w, offsetof(BlockQ6_K, low) + 64 * half + 32 * s, low);
        for (size_t u = 0; u < 2; ++u) {
          const size_t j = 8 * half + 2 * s;
          add_sub_blocks<R>(low + 4 * u, high + 4 * u, rows, 16 * w.b + j, u, scale + j + u, sum);
        }
      }
    }
    scale_to_float<R>(load_16_halves(w, offsetof(BlockQ6_K, d)), sum, v);
  }

 private:
  // The sub-blocks j + u and j + u + 4 (of sixteen elements, counted along the row) in the two nibbles of `low`.
  template <size_t R>
  static STEPAHEAD_INLINE void add_sub_blocks(const __m512i* low, __m512i* high, const ActivationRow* rows, size_t j,
                                              size_t u, const __m512i* scale, __m512i* sum) noexcept {
    const __m512i nibble = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(0x30);
    // q is 32 too much
    const int offset = static_cast<int>(u == 0 ? 0x0000FFE0 : 0xFFE00000);
    __m512i first[R], second[R];
    start_products<R>(first, offset, rows, j);
    start_products<R>(second, offset, rows, j + 4);
#pragma GCC unroll 4
    for (size_t c = 0; c < 4; ++c) {
      const __m512i top = _mm512_and_si512(_mm512_slli_epi16(high[c], 4), pair);
      const __m512i a = _mm512_or_si512(_mm512_and_si512(low[c], nibble), top);
      const __m512i b = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low[c], 4), nibble),
                                        _mm512_and_si512(high[c], pair));
      high[c] = _mm512_srli_epi16(high[c], 2);
      add_products<R>(first, a, rows, 16 * (j + u) + 4 * c);
      add_products<R>(second, b, rows, 16 * (j + u + 4) + 4 * c);
    }
    add_scaled_products<R>(sum, scale[0], first);
    add_scaled_products<R>(sum, scale[4], second);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
