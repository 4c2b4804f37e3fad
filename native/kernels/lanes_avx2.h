// Output rows as the dwords of a vector: all that formats_lanes.h and linear_lanes.h know of AVX2.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kLanes = 8;
static constexpr size_t kRowsAtOnce = 5;  // activation rows that share the unpacking of the weights
static constexpr size_t kRowsOfGroup = 5, kColumnsOfGroup = 2;  // that share loads where weights are unpacked already

using Dwords = __m256i;  // with the operators & | ^ of GCC and Clang
using Floats = __m256;
using Scale = __m256i;  // an int16 twice for each lane

static STEPAHEAD_INLINE Dwords load_dwords(const void* p) noexcept { return load_256(p); }
static STEPAHEAD_INLINE void store_dwords(void* p, Dwords x) noexcept {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x);
}
static STEPAHEAD_INLINE Floats load_floats(const float* p) noexcept { return _mm256_loadu_ps(p); }
static STEPAHEAD_INLINE void store_floats(float* p, Floats x) noexcept { _mm256_storeu_ps(p, x); }
static STEPAHEAD_INLINE void store_floats(float* p, Floats x, size_t count) noexcept {
  if (count == kLanes) return store_floats(p, x);
  float lanes[kLanes];
  _mm256_storeu_ps(lanes, x);
  memcpy(p, lanes, count * sizeof(float));
}
static STEPAHEAD_INLINE Floats load_halves(const uint8_t* p) noexcept { return _mm256_cvtph_ps(load_128(p)); }
static STEPAHEAD_INLINE Dwords load_bytes(const uint8_t* p) noexcept {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

static STEPAHEAD_INLINE Dwords splat(int dword) noexcept { return _mm256_set1_epi32(dword); }
static STEPAHEAD_INLINE Dwords splat_byte(int byte) noexcept { return _mm256_set1_epi8(static_cast<char>(byte)); }
static STEPAHEAD_INLINE Floats splat_float(float x) noexcept { return _mm256_set1_ps(x); }
static STEPAHEAD_INLINE Dwords zero_dwords() noexcept { return _mm256_setzero_si256(); }
static STEPAHEAD_INLINE Floats zero_floats() noexcept { return _mm256_setzero_ps(); }

// Of 16-bit words or wider: bits that cross a byte are for the caller to mask.
template <int bits>
static STEPAHEAD_INLINE Dwords shift_left(Dwords x) noexcept {
  return _mm256_slli_epi16(x, bits);
}
template <int bits>
static STEPAHEAD_INLINE Dwords shift_right(Dwords x) noexcept {
  return _mm256_srli_epi16(x, bits);
}

// The upper nibble of each byte.
static STEPAHEAD_INLINE Dwords high_nibbles(Dwords x) noexcept { return shift_right<4>(x) & splat_byte(15); }

// Bytes j and k of each dword as its two int16.
static STEPAHEAD_INLINE Dwords bytes_to_words(Dwords x, int j, int k) noexcept {
  const int zero = 0x80, pattern = j | zero << 8 | k << 16 | zero << 24, step = 0x00040004;
  return _mm256_shuffle_epi8(
      x, _mm256_broadcastsi128_si256(_mm_setr_epi32(pattern, pattern + step, pattern + 2 * step, pattern + 3 * step)));
}
static STEPAHEAD_INLINE Dwords signed_bytes_to_words(Dwords x, int j, int k) noexcept {
  return _mm256_srai_epi16(_mm256_slli_epi16(bytes_to_words(x, j, k), 8), 8);
}
static STEPAHEAD_INLINE Dwords negative_words(Dwords x) noexcept { return _mm256_sub_epi16(zero_dwords(), x); }

static STEPAHEAD_INLINE Dwords add_bytes(Dwords a, Dwords b) noexcept { return _mm256_add_epi8(a, b); }

// Sixteen bytes for look_up, which takes bytes from 0 to 15 to those at that place.
static STEPAHEAD_INLINE Dwords broadcast_16(const int8_t* table) noexcept {
  return _mm256_broadcastsi128_si256(load_128(table));
}
static STEPAHEAD_INLINE Dwords look_up(Dwords table, Dwords index) noexcept {
  return _mm256_shuffle_epi8(table, index);
}

// Bytes of each dword to its bytes: `pattern` says which, a byte each.
static STEPAHEAD_INLINE Dwords shuffle_bytes(Dwords x, int pattern) noexcept {
  const int step = 0x04040404;
  return _mm256_shuffle_epi8(
      x, _mm256_broadcastsi128_si256(_mm_setr_epi32(pattern, pattern + step, pattern + 2 * step, pattern + 3 * step)));
}

// Entries of a table of 256 words for the four codes in each dword, one by one: vpgatherdd is slower (Zen 5).
class WordsOfCodes {
 public:
  STEPAHEAD_INLINE WordsOfCodes(const uint16_t* table, Dwords codes) noexcept : table_(table) {
    store_dwords(codes_, codes);
  }

  // The entry for code j, each of its two bytes twice.
  STEPAHEAD_INLINE Dwords twice(size_t j) const noexcept {
    const auto entry = [&](size_t lane) { return static_cast<short>(table_[codes_[4 * lane + j]]); };
    const __m128i entries =
        _mm_setr_epi16(entry(0), entry(1), entry(2), entry(3), entry(4), entry(5), entry(6), entry(7));
    return shuffle_bytes(_mm256_cvtepu16_epi32(entries), 0x01010000);
  }

 private:
  const uint16_t* table_;
  uint8_t codes_[4 * kLanes];
};

// Bits 4 c to 4 c + 3 of each dword to its bytes: `value` where they are set.
static STEPAHEAD_INLINE Dwords bits_to_bytes(Dwords x, size_t c, int value) noexcept {
  const Dwords bits = splat(c % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010));
  const Dwords spread = shuffle_bytes(x, static_cast<int>(c / 2) * 0x01010101);
  return _mm256_cmpeq_epi8(spread & bits, bits) & splat_byte(value);
}

template <int bits>
static STEPAHEAD_INLINE Dwords shift_dwords_left(Dwords x) noexcept {
  return _mm256_slli_epi32(x, bits);
}

// 2^(x - 128), x from 0 to 255; the first two are denormal.
static STEPAHEAD_INLINE Floats half_powers_of_two(Dwords x) noexcept {
  const Dwords normal = _mm256_slli_epi32(_mm256_sub_epi32(x, splat(1)), 23);
  const Dwords denormal = _mm256_sllv_epi32(splat(0x00200000), x);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, denormal, _mm256_cmpgt_epi32(splat(2), x)));
}

static STEPAHEAD_INLINE Scale byte_to_scale(Dwords x, int j) noexcept { return bytes_to_words(x, j, j); }
static STEPAHEAD_INLINE Scale signed_byte_to_scale(Dwords x, int j) noexcept { return signed_bytes_to_words(x, j, j); }

static STEPAHEAD_INLINE Floats low_halves(Dwords x) noexcept {
  const __m256i words = _mm256_packus_epi32(x & splat(0xFFFF), x);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(words, 0x08)));
}
static STEPAHEAD_INLINE Floats high_halves(Dwords x) noexcept { return low_halves(_mm256_srli_epi32(x, 16)); }
static STEPAHEAD_INLINE Floats to_floats(Dwords x) noexcept { return _mm256_cvtepi32_ps(x); }
static STEPAHEAD_INLINE Floats multiply(Floats a, Floats b) noexcept { return _mm256_mul_ps(a, b); }
static STEPAHEAD_INLINE Floats fma(Floats a, Floats b, Floats c) noexcept { return _mm256_fmadd_ps(a, b, c); }
static STEPAHEAD_INLINE Floats minus_fma(Floats a, Floats b, Floats c) noexcept { return _mm256_fnmadd_ps(a, b, c); }

// Four bytes in every lane.
static STEPAHEAD_INLINE Dwords broadcast_dword(const void* p) noexcept {
  int bits;
  memcpy(&bits, p, 4);
  return _mm256_set1_epi32(bits);
}

// sum + the products of the two int16 of each lane
static STEPAHEAD_INLINE Dwords add_word_products(Dwords sum, Dwords a, Dwords b) noexcept {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

// sum[r] += scale * (the products of n dwords of weights, from `weights(c)`, with the activations from k on), exactly.
// Weights are bytes from `lowest` to `highest`. vpmaddubsw takes them unsigned (a sign goes to the activation) and adds
// two products in an int16, which holds those of `step` dwords before they are scaled and widened.
template <int lowest, int highest, size_t R, size_t n, bool scaled, class Weights>
static STEPAHEAD_INLINE void add_products(Dwords* sum, Scale scale, const ActivationRow* rows, size_t k,
                                          const Weights& weights) noexcept {
  constexpr size_t most = highest > -lowest ? highest : -lowest, fit = 32767 / (2 * 127 * most);
  constexpr size_t step = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  static_assert(fit >= 1);
  Dwords words[R];
#pragma GCC unroll 8
  for (size_t c = 0; c < n; ++c) {
    const Dwords w = weights(c), magnitude = lowest < 0 ? _mm256_abs_epi8(w) : w;  // of -128: 128, as it is unsigned
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      Dwords x = broadcast_dword(rows[r].q + k + 4 * c);
      if constexpr (lowest < 0) x = _mm256_sign_epi8(x, w);
      const Dwords products = _mm256_maddubs_epi16(magnitude, x);
      words[r] = c % step == 0 ? products : _mm256_add_epi16(words[r], products);
      // An order that GCC keeps: it would make all products, then sum them as a tree, which takes more registers than
      // there are (Q4_K, four rows: a third slower).
      asm("" : "+x"(words[r]));
      if (c % step == step - 1 || c == n - 1) {
        sum[r] = add_word_products(sum[r], words[r], scaled ? scale : _mm256_set1_epi16(1));
      }
    }
  }
}

// The same for C columns of outputs, whose weights lie at weights[i]: they share the loads of the activations.
template <int lowest, int highest, size_t R, size_t C, size_t n, bool scaled>
static STEPAHEAD_INLINE void add_products_of_columns(Dwords (*sum)[C], const Scale* scale, const ActivationRow* rows,
                                                     size_t k, const Dwords* const* weights) noexcept {
  constexpr size_t most = highest > -lowest ? highest : -lowest, fit = 32767 / (2 * 127 * most);
  constexpr size_t step = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  static_assert(fit >= 1);
  Dwords words[R][C];
#pragma GCC unroll 8
  for (size_t c = 0; c < n; ++c) {
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const Dwords x = broadcast_dword(rows[r].q + k + 4 * c);
      for (size_t i = 0; i < C; ++i) {
        const Dwords w = weights[i][c];
        const Dwords products = lowest < 0 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                                           : _mm256_maddubs_epi16(w, x);
        words[r][i] = c % step == 0 ? products : _mm256_add_epi16(words[r][i], products);
        asm("" : "+x"(words[r][i]));  // as above
        if (c % step == step - 1 || c == n - 1) {
          sum[r][i] = add_word_products(sum[r][i], words[r][i], scaled ? scale[i] : _mm256_set1_epi16(1));
        }
      }
    }
  }
}

// n dwords from `at(row)` on, for each of eight rows: dword i of the rows to out[i].
template <size_t n, class At>
static STEPAHEAD_INLINE void load_dwords_of_rows(const At& at, Dwords* out) noexcept {
  if constexpr (n == 1) {
    const auto dword = [&](size_t i) {
      int bits;
      memcpy(&bits, at(i), 4);
      return bits;
    };
    out[0] = _mm256_setr_epi32(dword(0), dword(1), dword(2), dword(3), dword(4), dword(5), dword(6), dword(7));
  } else {
    static_assert(n % 4 == 0);
#pragma GCC unroll 2
    for (size_t i = 0; i < n; i += 4) {
      __m256i in[4];
      for (size_t g = 0; g < 4; ++g) {
        in[g] = _mm256_set_m128i(load_128(at(g + 4) + 4 * i), load_128(at(g) + 4 * i));
      }
      const __m256i a = _mm256_unpacklo_epi32(in[0], in[1]), b = _mm256_unpacklo_epi32(in[2], in[3]);
      const __m256i c = _mm256_unpackhi_epi32(in[0], in[1]), d = _mm256_unpackhi_epi32(in[2], in[3]);
      out[i] = _mm256_unpacklo_epi64(a, b);
      out[i + 1] = _mm256_unpackhi_epi64(a, b);
      out[i + 2] = _mm256_unpacklo_epi64(c, d);
      out[i + 3] = _mm256_unpackhi_epi64(c, d);
    }
  }
}

// The half at `at(row)` of each of eight rows.
template <class At>
static STEPAHEAD_INLINE Floats load_halves_of_rows(const At& at) noexcept {
  const auto half = [&](size_t i) { return static_cast<short>(load_u16(at(i))); };
  return _mm256_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7)));
}

// The byte at `at(row)` of each of eight rows, as a dword.
template <class At>
static STEPAHEAD_INLINE Dwords load_bytes_of_rows(const At& at) noexcept {
  const auto byte = [&](size_t i) { return static_cast<int>(*at(i)); };
  return _mm256_setr_epi32(byte(0), byte(1), byte(2), byte(3), byte(4), byte(5), byte(6), byte(7));
}

}  // namespace stepahead::STEPAHEAD_ISA
