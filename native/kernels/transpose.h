// Blocks of sixteen output rows turned so that a row is a lane: dword k of the result i holds bytes [4 i, 4 i + 4) of
// row k. Integer products of such vectors with four activations, repeated in every lane, are sums of their output
// already: nothing is added up across lanes, and what is unpacked serves every activation row.
#pragma once

#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kLanes = 16;

// The blocks at one place of sixteen rows. Sixteen streams are more than the hardware prefetchers follow (measured on a
// Zen 5: 12 GB/s a core for Q4_K, 46 with prefetch_next), so what comes is asked for.
template <class Block>
struct BlockColumn {
  const Block* const* rows;
  size_t b, num_blocks;
  bool more;  // another sixteen rows follow, one stretch of memory

  const uint8_t* at(size_t row, size_t offset) const noexcept {
    return reinterpret_cast<const uint8_t*>(rows[row] + b) + offset;
  }

  // Large blocks: as many bytes of the next sixteen rows, in the order they lie. In parts, between the computations:
  // all at once they would wait for each other.
  template <size_t parts>
  STEPAHEAD_INLINE void prefetch_next(size_t part) const noexcept {
    if (!more) return;
    constexpr size_t bytes = kLanes * sizeof(Block);
    const auto* next = reinterpret_cast<const char*>(rows[0] + kLanes * num_blocks) + b * bytes + part * bytes / parts;
    for (size_t i = 0; i < bytes / parts; i += 64) _mm_prefetch(next + i, _MM_HINT_T0);
  }

  // Small blocks, whose tiles are larger than the first cache (Q8_0 from memory: 33 GB/s with prefetch_next, 38 with
  // this): each row some way ahead, at its end what its lane reads next.
  STEPAHEAD_INLINE void prefetch_ahead() const noexcept {
    constexpr size_t ahead = 1536, line = 64;
    const size_t row_bytes = num_blocks * sizeof(Block), end = (b + 1) * sizeof(Block) + ahead;
    size_t at = (end - 1) & ~(line - 1);
    if (at < end - sizeof(Block) || (at >= row_bytes && !more)) return;  // no line begins in this block's share
    if (at >= row_bytes) at += (kLanes - 1) * row_bytes;
#pragma GCC unroll 16
    for (size_t i = 0; i < kLanes; ++i) _mm_prefetch(reinterpret_cast<const char*>(rows[i]) + at, _MM_HINT_T0);
  }
};

// In each 128-bit lane: row g of dwords in `in[g]` to column g.
static STEPAHEAD_INLINE void transpose_in_lanes(const __m512i* in, __m512i* out) noexcept {
  const __m512i a = _mm512_unpacklo_epi32(in[0], in[1]), b = _mm512_unpacklo_epi32(in[2], in[3]);
  const __m512i c = _mm512_unpackhi_epi32(in[0], in[1]), d = _mm512_unpackhi_epi32(in[2], in[3]);
  out[0] = _mm512_unpacklo_epi64(a, b);
  out[1] = _mm512_unpackhi_epi64(a, b);
  out[2] = _mm512_unpacklo_epi64(c, d);
  out[3] = _mm512_unpackhi_epi64(c, d);
}

// Bytes [offset, offset + 16) as four vectors
template <class Block>
static STEPAHEAD_INLINE void transpose_16_bytes(const BlockColumn<Block>& w, size_t offset, __m512i* out) noexcept {
  __m512i in[4];
  for (size_t g = 0; g < 4; ++g) {
    in[g] = _mm512_castsi128_si512(load_128(w.at(g, offset)));
    in[g] = _mm512_inserti32x4(in[g], load_128(w.at(g + 4, offset)), 1);
    in[g] = _mm512_inserti32x4(in[g], load_128(w.at(g + 8, offset)), 2);
    in[g] = _mm512_inserti32x4(in[g], load_128(w.at(g + 12, offset)), 3);
  }
  transpose_in_lanes(in, out);
}

// Bytes [offset, offset + 32) as eight vectors
template <class Block>
static STEPAHEAD_INLINE void transpose_32_bytes(const BlockColumn<Block>& w, size_t offset, __m512i* out) noexcept {
  __m512i low[4], high[4];
  for (size_t g = 0; g < 4; ++g) {
    const auto rows = [&](size_t i) {  // i and i + 4
      return _mm512_inserti64x4(_mm512_castsi256_si512(load_256(w.at(i, offset))), load_256(w.at(i + 4, offset)), 1);
    };
    const __m512i first = rows(g), second = rows(g + 8);
    low[g] = _mm512_shuffle_i32x4(first, second, 0x88);
    high[g] = _mm512_shuffle_i32x4(first, second, 0xDD);
  }
  transpose_in_lanes(low, out);
  transpose_in_lanes(high, out + 4);
}

// Four bytes in every lane
static STEPAHEAD_INLINE __m512i broadcast_4(const void* p) noexcept {
  int bits;
  memcpy(&bits, p, 4);
  return _mm512_set1_epi32(bits);
}

// The low halves of the dwords as float
static STEPAHEAD_INLINE __m512 low_halves(__m512i words) noexcept {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
}

// Byte j of each dword: to the dword, and (where `twice`) to its upper half too
static STEPAHEAD_INLINE __m512i byte_of_dwords(__m512i words, int j, bool twice) noexcept {
  const int zero = 0x80, pattern = j | zero << 8 | (twice ? j : zero) << 16 | zero << 24;
  const int step = twice ? 0x00040004 : 0x00000004;
  return _mm512_shuffle_epi8(
      words, _mm512_broadcast_i32x4(_mm_setr_epi32(pattern, pattern + step, pattern + 2 * step, pattern + 3 * step)));
}

}  // namespace stepahead::STEPAHEAD_ISA
