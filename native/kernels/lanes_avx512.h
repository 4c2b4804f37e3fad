// Output rows as the dwords of a vector: all that formats_lanes.h and linear_lanes.h know of AVX-512 with VNNI.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kLanes = 16;
static constexpr size_t kRowsAtOnce = 8;  // activation rows that share the unpacking of the weights
static constexpr size_t kRowsOfGroup = 6, kColumnsOfGroup = 2;  // that share loads where weights are unpacked already

using Dwords = __m512i;  // with the operators & | ^ of GCC and Clang
using Floats = __m512;
using Scale = __m512i;  // an int32 for each lane

static STEPAHEAD_INLINE Dwords load_dwords(const void* p) noexcept { return _mm512_loadu_si512(p); }
static STEPAHEAD_INLINE void store_dwords(void* p, Dwords x) noexcept { _mm512_storeu_si512(p, x); }
static STEPAHEAD_INLINE Floats load_floats(const float* p) noexcept { return _mm512_loadu_ps(p); }
static STEPAHEAD_INLINE void store_floats(float* p, Floats x) noexcept { _mm512_storeu_ps(p, x); }
static STEPAHEAD_INLINE void store_floats(float* p, Floats x, size_t count) noexcept {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), x);
}
static STEPAHEAD_INLINE Floats load_halves(const uint8_t* p) noexcept { return _mm512_cvtph_ps(load_256(p)); }
static STEPAHEAD_INLINE Dwords load_bytes(const uint8_t* p) noexcept { return _mm512_cvtepu8_epi32(load_128(p)); }

static STEPAHEAD_INLINE Dwords splat(int dword) noexcept { return _mm512_set1_epi32(dword); }
static STEPAHEAD_INLINE Dwords splat_byte(int byte) noexcept { return _mm512_set1_epi8(static_cast<char>(byte)); }
static STEPAHEAD_INLINE Floats splat_float(float x) noexcept { return _mm512_set1_ps(x); }
static STEPAHEAD_INLINE Dwords zero_dwords() noexcept { return _mm512_setzero_si512(); }
static STEPAHEAD_INLINE Floats zero_floats() noexcept { return _mm512_setzero_ps(); }

// Of 16-bit words or wider: bits that cross a byte are for the caller to mask.
template <int bits>
static STEPAHEAD_INLINE Dwords shift_left(Dwords x) noexcept {
  return _mm512_slli_epi16(x, bits);
}
template <int bits>
static STEPAHEAD_INLINE Dwords shift_right(Dwords x) noexcept {
  return _mm512_srli_epi16(x, bits);
}

// The upper nibble of each byte.
static STEPAHEAD_INLINE Dwords high_nibbles(Dwords x) noexcept { return shift_right<4>(x) & splat_byte(15); }

// Bytes j and k of each dword as its two int16.
static STEPAHEAD_INLINE Dwords bytes_to_words(Dwords x, int j, int k) noexcept {
  const int zero = 0x80, pattern = j | zero << 8 | k << 16 | zero << 24, step = 0x00040004;
  return _mm512_shuffle_epi8(
      x, _mm512_broadcast_i32x4(_mm_setr_epi32(pattern, pattern + step, pattern + 2 * step, pattern + 3 * step)));
}
static STEPAHEAD_INLINE Dwords signed_bytes_to_words(Dwords x, int j, int k) noexcept {
  return _mm512_srai_epi16(_mm512_slli_epi16(bytes_to_words(x, j, k), 8), 8);
}
static STEPAHEAD_INLINE Dwords negative_words(Dwords x) noexcept { return _mm512_sub_epi16(zero_dwords(), x); }

static STEPAHEAD_INLINE Dwords add_bytes(Dwords a, Dwords b) noexcept { return _mm512_add_epi8(a, b); }

// Sixteen bytes for look_up, which takes bytes from 0 to 15 to those at that place.
static STEPAHEAD_INLINE Dwords broadcast_16(const int8_t* table) noexcept {
  return _mm512_broadcast_i32x4(load_128(table));
}
static STEPAHEAD_INLINE Dwords look_up(Dwords table, Dwords index) noexcept {
  return _mm512_shuffle_epi8(table, index);
}

// Bytes of each dword to its bytes: `pattern` says which, a byte each.
static STEPAHEAD_INLINE Dwords shuffle_bytes(Dwords x, int pattern) noexcept {
  const int step = 0x04040404;
  return _mm512_shuffle_epi8(
      x, _mm512_broadcast_i32x4(_mm_setr_epi32(pattern, pattern + step, pattern + 2 * step, pattern + 3 * step)));
}

// Entries of a table of 256 words for the four codes in each dword. Gathering them costs 26 cycles a vector (Zen 5).
class WordsOfCodes {
 public:
  STEPAHEAD_INLINE WordsOfCodes(const uint16_t* table, Dwords codes) noexcept
      : of_even_{look_up_words(table, codes & splat(0x00FF00FF))},
        of_odd_{look_up_words(table, shift_right<8>(codes))} {}

  // The entry for code j, each of its two bytes twice.
  STEPAHEAD_INLINE Dwords twice(size_t j) const noexcept {
    return shuffle_bytes(j % 2 == 0 ? of_even_ : of_odd_, j < 2 ? 0x01010000 : 0x03030202);
  }

 private:
  // vpermi2w looks up six of the eight bits.
  static STEPAHEAD_INLINE Dwords look_up_words(const uint16_t* table, Dwords index) noexcept {
    const auto quarter = [&](size_t g) {
      return _mm512_permutex2var_epi16(load_dwords(table + 64 * g), index, load_dwords(table + 64 * g + 32));
    };
    const __mmask32 bit_6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(0x40));
    const __mmask32 bit_7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(0x80));
    return _mm512_mask_blend_epi16(bit_7, _mm512_mask_blend_epi16(bit_6, quarter(0), quarter(1)),
                                   _mm512_mask_blend_epi16(bit_6, quarter(2), quarter(3)));
  }

  Dwords of_even_, of_odd_;
};

// Bits 4 c to 4 c + 3 of each dword to its bytes: `value` where they are set.
static STEPAHEAD_INLINE Dwords bits_to_bytes(Dwords x, size_t c, int value) noexcept {
  const Dwords bits = splat(c % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010));
  const Dwords spread = shuffle_bytes(x, static_cast<int>(c / 2) * 0x01010101);
  return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(spread, bits), splat_byte(value));
}

template <int bits>
static STEPAHEAD_INLINE Dwords shift_dwords_left(Dwords x) noexcept {
  return _mm512_slli_epi32(x, bits);
}

// 2^(x - 128), x from 0 to 255; the first two are denormal.
static STEPAHEAD_INLINE Floats half_powers_of_two(Dwords x) noexcept {
  const Dwords normal = _mm512_slli_epi32(_mm512_sub_epi32(x, splat(1)), 23);
  return _mm512_castsi512_ps(
      _mm512_mask_sllv_epi32(normal, _mm512_cmplt_epu32_mask(x, splat(2)), splat(0x00200000), x));
}

static STEPAHEAD_INLINE Scale byte_to_scale(Dwords x, int j) noexcept {
  const int zero = 0x80, pattern = j | zero << 8 | zero << 16 | zero << 24, step = 4;
  return _mm512_shuffle_epi8(
      x, _mm512_broadcast_i32x4(_mm_setr_epi32(pattern, pattern + step, pattern + 2 * step, pattern + 3 * step)));
}
static STEPAHEAD_INLINE Scale signed_byte_to_scale(Dwords x, int j) noexcept {
  return _mm512_srai_epi32(_mm512_slli_epi32(x, static_cast<unsigned>(24 - 8 * j)), 24);
}

static STEPAHEAD_INLINE Floats low_halves(Dwords x) noexcept { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)); }
static STEPAHEAD_INLINE Floats high_halves(Dwords x) noexcept { return low_halves(_mm512_srli_epi32(x, 16)); }
static STEPAHEAD_INLINE Floats to_floats(Dwords x) noexcept { return _mm512_cvtepi32_ps(x); }
static STEPAHEAD_INLINE Floats multiply(Floats a, Floats b) noexcept { return _mm512_mul_ps(a, b); }
static STEPAHEAD_INLINE Floats fma(Floats a, Floats b, Floats c) noexcept { return _mm512_fmadd_ps(a, b, c); }
static STEPAHEAD_INLINE Floats minus_fma(Floats a, Floats b, Floats c) noexcept { return _mm512_fnmadd_ps(a, b, c); }

// Four bytes in every lane.
static STEPAHEAD_INLINE Dwords broadcast_dword(const void* p) noexcept {
  int bits;
  memcpy(&bits, p, 4);
  return _mm512_set1_epi32(bits);
}

// sum + the products of the two int16 of each lane
static STEPAHEAD_INLINE Dwords add_word_products(Dwords sum, Dwords a, Dwords b) noexcept {
  return _mm512_dpwssd_epi32(sum, a, b);
}

// sum[r] += scale * (the products of n dwords of weights, from `weights(c)`, with the activations from k on), exactly.
// Weights are bytes from `lowest` to `highest`; vpdpbusd takes them unsigned, so 128 is added where they are not.
template <int lowest, int highest, size_t R, size_t n, bool scaled, class Weights>
static STEPAHEAD_INLINE void add_products(Dwords* sum, Scale scale, const ActivationRow* rows, size_t k,
                                          const Weights& weights) noexcept {
  static_assert(lowest == 0 || n == 8, "the offset takes the sums of two times sixteen activations");
  Dwords dot[R];
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    dot[r] = scaled ? zero_dwords() : sum[r];
    if constexpr (lowest < 0) {
      dot[r] = add_word_products(dot[r], splat(static_cast<int>(0xFF80FF80)), broadcast_dword(rows[r].sums + k / 16));
    }
  }
#pragma GCC unroll 8
  for (size_t c = 0; c < n; ++c) {
    Dwords w = weights(c);
    if constexpr (lowest < 0) w = w ^ splat_byte(0x80);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], w, broadcast_dword(rows[r].q + k + 4 * c));
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) sum[r] = scaled ? _mm512_add_epi32(sum[r], _mm512_mullo_epi32(scale, dot[r])) : dot[r];
}

// The same for C columns of outputs, whose weights lie at weights[i]: they share the loads of the activations, of which
// there is otherwise one a product, and no more than two a cycle.
template <int lowest, int highest, size_t R, size_t C, size_t n, bool scaled>
static STEPAHEAD_INLINE void add_products_of_columns(Dwords (*sum)[C], const Scale* scale, const ActivationRow* rows,
                                                     size_t k, const Dwords* const* weights) noexcept {
  static_assert(lowest == 0 || n == 8);
  Dwords dot[R][C];
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    for (size_t i = 0; i < C; ++i) dot[r][i] = scaled ? zero_dwords() : sum[r][i];
    if constexpr (lowest < 0) {
      const Dwords x = broadcast_dword(rows[r].sums + k / 16);
      for (size_t i = 0; i < C; ++i) dot[r][i] = add_word_products(dot[r][i], splat(static_cast<int>(0xFF80FF80)), x);
    }
  }
#pragma GCC unroll 8
  for (size_t c = 0; c < n; ++c) {
    Dwords w[C];
    for (size_t i = 0; i < C; ++i) w[i] = lowest < 0 ? weights[i][c] ^ splat_byte(0x80) : weights[i][c];
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const Dwords x = broadcast_dword(rows[r].q + k + 4 * c);
      for (size_t i = 0; i < C; ++i) dot[r][i] = _mm512_dpbusd_epi32(dot[r][i], w[i], x);
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    for (size_t i = 0; i < C; ++i) {
      sum[r][i] = scaled ? _mm512_add_epi32(sum[r][i], _mm512_mullo_epi32(scale[i], dot[r][i])) : dot[r][i];
    }
  }
}

// In each 128-bit lane: row g of dwords in `in[g]` to column g.
static STEPAHEAD_INLINE void transpose_in_lanes(const __m512i* in, Dwords* out) noexcept {
  const __m512i a = _mm512_unpacklo_epi32(in[0], in[1]), b = _mm512_unpacklo_epi32(in[2], in[3]);
  const __m512i c = _mm512_unpackhi_epi32(in[0], in[1]), d = _mm512_unpackhi_epi32(in[2], in[3]);
  out[0] = _mm512_unpacklo_epi64(a, b);
  out[1] = _mm512_unpackhi_epi64(a, b);
  out[2] = _mm512_unpacklo_epi64(c, d);
  out[3] = _mm512_unpackhi_epi64(c, d);
}

// n dwords from `at(row)` on, for each of sixteen rows: dword i of the rows to out[i].
template <size_t n, class At>
static STEPAHEAD_INLINE void load_dwords_of_rows(const At& at, Dwords* out) noexcept {
  if constexpr (n == 1) {
    const auto dword = [&](size_t i) {
      int bits;
      memcpy(&bits, at(i), 4);
      return bits;
    };
    out[0] = _mm512_setr_epi32(dword(0), dword(1), dword(2), dword(3), dword(4), dword(5), dword(6), dword(7),
                               dword(8), dword(9), dword(10), dword(11), dword(12), dword(13), dword(14), dword(15));
  } else if constexpr (n == 4) {
    __m512i in[4];
    for (size_t g = 0; g < 4; ++g) {
      in[g] = _mm512_castsi128_si512(load_128(at(g)));
      in[g] = _mm512_inserti32x4(in[g], load_128(at(g + 4)), 1);
      in[g] = _mm512_inserti32x4(in[g], load_128(at(g + 8)), 2);
      in[g] = _mm512_inserti32x4(in[g], load_128(at(g + 12)), 3);
    }
    transpose_in_lanes(in, out);
  } else {
    static_assert(n == 8);
    __m512i low[4], high[4];
    for (size_t g = 0; g < 4; ++g) {
      const auto rows = [&](size_t i) {  // i and i + 4
        return _mm512_inserti64x4(_mm512_castsi256_si512(load_256(at(i))), load_256(at(i + 4)), 1);
      };
      const __m512i first = rows(g), second = rows(g + 8);
      low[g] = _mm512_shuffle_i32x4(first, second, 0x88);
      high[g] = _mm512_shuffle_i32x4(first, second, 0xDD);
    }
    transpose_in_lanes(low, out);
    transpose_in_lanes(high, out + 4);
  }
}

// The half at `at(row)` of each of sixteen rows.
template <class At>
static STEPAHEAD_INLINE Floats load_halves_of_rows(const At& at) noexcept {
  const auto half = [&](size_t i) { return static_cast<short>(load_u16(at(i))); };
  const __m256i halves =
      _mm256_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7), half(8), half(9),
                        half(10), half(11), half(12), half(13), half(14), half(15));
  return _mm512_cvtph_ps(halves);
}

// The byte at `at(row)` of each of sixteen rows, as a dword.
template <class At>
static STEPAHEAD_INLINE Dwords load_bytes_of_rows(const At& at) noexcept {
  const auto byte = [&](size_t i) { return static_cast<int>(*at(i)); };
  return _mm512_setr_epi32(byte(0), byte(1), byte(2), byte(3), byte(4), byte(5), byte(6), byte(7), byte(8), byte(9),
                           byte(10), byte(11), byte(12), byte(13), byte(14), byte(15));
}

}  // namespace stepahead::STEPAHEAD_ISA
