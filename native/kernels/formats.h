// The value v of one block of each quantised format with int8 activations, scalar first, the vector twin beside it.
//
// Vector twins work on eight output rows: unpack() gives one row's integers (and leaves what belongs to the tile in
// it), dot() their products with one activation row as eight int32 whose sum counts, Tile::value() the eight v.
// The pair sums of maddubs never saturate: |q| <= 127 beside weights <= 63, or <= 128 (32,512 < 32,767).
#pragma once

#include "isa/kernel_table.h"
#include "kernels/blocks.h"

namespace stepahead::STEPAHEAD_ISA {

#if defined(STEPAHEAD_VECTOR_AVX2)

// The halves at byte `offset` of block b of eight rows.
template <class Block>
static inline __m256 load_halves(const Block* const* w, size_t b, size_t offset) noexcept {
  const auto at = [=](size_t o) {
    return static_cast<short>(load_u16(reinterpret_cast<const uint8_t*>(w[o] + b) + offset));
  };
  return _mm256_cvtph_ps(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)));
}

// The int16 number g of each 128-bit half, in all of that half.
static inline __m256i spread(__m256i words, int g) noexcept {
  return _mm256_shuffle_epi8(words, _mm256_set1_epi16(static_cast<short>(2 * g | (2 * g + 1) << 8)));
}

template <class Block>
struct TileOfScales {
  __m256 d;
  void load_scales(const Block* const* w, size_t b) noexcept { d = load_halves(w, b, offsetof(Block, d)); }
};

#endif

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

#if defined(STEPAHEAD_VECTOR_AVX2)
  struct Tile : TileOfScales<Block> {
    __m256 value(__m256i sum, const int16_t*) const noexcept { return _mm256_mul_ps(d, _mm256_cvtepi32_ps(sum)); }
  };
  struct Weights {
    __m256i q, magnitude;
  };
  static Weights unpack(const Block& w, Tile&, size_t) noexcept {
    const __m256i q = load_256(w.q);
    return {q, _mm256_abs_epi8(q)};  // of -128: 128, as the unsigned operand it is
  }
  static __m256i dot(const Weights& w, const int8_t* x, const int16_t*) noexcept {
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(load_256(x), w.q));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
#endif
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

#if defined(STEPAHEAD_VECTOR_AVX2)
  struct Tile : TileOfScales<Block> {
    __m256 value(__m256i sum, const int16_t* sums) const noexcept {
      const __m256i offset = _mm256_set1_epi32(8 * (sums[0] + sums[1]));
      return _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, offset)));
    }
  };
  using Weights = __m256i;
  static Weights unpack(const Block& w, Tile&, size_t) noexcept {
    const __m128i q = load_128(w.q);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(q, 4), q), _mm256_set1_epi8(15));
  }
  static __m256i dot(const Weights& w, const int8_t* x, const int16_t*) noexcept {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(w, load_256(x)), _mm256_set1_epi16(1));
  }
#endif
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

#if defined(STEPAHEAD_VECTOR_AVX2)
  struct Tile {
    __m256 d, dmin;
    __m128i mins_of_row[8];  // eight int16 each
    __m256i mins[4];         // [row i | row i + 4]
    void load_scales(const Block* const* w, size_t b) noexcept {
      for (int i = 0; i < 4; ++i) mins[i] = _mm256_set_m128i(mins_of_row[i + 4], mins_of_row[i]);
      d = load_halves(w, b, offsetof(Block, d));
      dmin = load_halves(w, b, offsetof(Block, dmin));
    }
    __m256 value(__m256i sum, const int16_t* sums) const noexcept {
      const __m128i of_32 = _mm_hadd_epi16(load_128(sums), load_128(sums + 8));
      const __m256i x = _mm256_set_m128i(of_32, of_32);
      __m256i part[4];
      for (int i = 0; i < 4; ++i) part[i] = _mm256_madd_epi16(mins[i], x);
      const __m256i minimum =
          _mm256_hadd_epi32(_mm256_hadd_epi32(part[0], part[1]), _mm256_hadd_epi32(part[2], part[3]));
      return _mm256_fnmadd_ps(dmin, _mm256_cvtepi32_ps(minimum), _mm256_mul_ps(d, _mm256_cvtepi32_ps(sum)));
    }
  };
  struct Weights {
    __m256i q[8], scale[8];
  };
  static Weights unpack(const Block& w, Tile& tile, size_t o) noexcept {
    Weights out;
    unpack_elements(w, out.q);
    const ScaleWords p = unpack_words(w.scales);
    const __m256i both = _mm256_cvtepu8_epi16(_mm_setr_epi32(static_cast<int>(p.word[0]), static_cast<int>(p.word[1]),
                                                             static_cast<int>(p.word[2]), static_cast<int>(p.word[3])));
    const __m256i scales = _mm256_permute2x128_si256(both, both, 0x00);
    for (int j = 0; j < 8; ++j) out.scale[j] = spread(scales, j);
    tile.mins_of_row[o] = _mm256_extracti128_si256(both, 1);
    return out;
  }
  static __m256i dot(const Weights& w, const int8_t* x, const int16_t*) noexcept {
    __m256i sum = _mm256_setzero_si256();
    for (size_t j = 0; j < 8; ++j) {
      const __m256i pairs = _mm256_maddubs_epi16(w.q[j], load_256(x + 32 * j));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, w.scale[j]));
    }
    return sum;
  }

 private:
  static void unpack_elements(const BlockQ4_K& w, __m256i* q) noexcept {
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t g = 0; g < 4; ++g) {
      const __m256i both = load_256(w.q + 32 * g);
      q[2 * g] = _mm256_and_si256(both, low);
      q[2 * g + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
  }
  static void unpack_elements(const BlockQ5_K& w, __m256i* q) noexcept {
    const __m256i low = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16), high = load_256(w.high);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const __m256i both = load_256(w.q + 32 * g);
      // Bit 2g of each byte to bit 4, and bit 2g + 1.
      const __m256i even = 2 * g <= 4 ? _mm256_slli_epi16(high, 4 - 2 * g) : _mm256_srli_epi16(high, 2 * g - 4);
      const __m256i odd = 2 * g < 4 ? _mm256_slli_epi16(high, 3 - 2 * g) : _mm256_srli_epi16(high, 2 * g - 3);
      q[2 * g] = _mm256_or_si256(_mm256_and_si256(both, low), _mm256_and_si256(even, fifth));
      q[2 * g + 1] =
          _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(both, 4), low), _mm256_and_si256(odd, fifth));
    }
  }
#endif
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

#if defined(STEPAHEAD_VECTOR_AVX2)
  struct Tile : TileOfScales<Block> {
    __m256 value(__m256i sum, const int16_t*) const noexcept { return _mm256_mul_ps(d, _mm256_cvtepi32_ps(sum)); }
  };
  struct Weights {
    __m256i q[8], scale[8];  // q from 0 to 63; scale[g]: of the 16 elements in each half of q[g]
    __m256i scales;          // all sixteen in order, against the sums of x
  };
  static Weights unpack(const Block& w, Tile&, size_t) noexcept {
    Weights out;
    const __m256i low = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(0x30);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i a = load_256(w.low + 64 * h), b = load_256(w.low + 64 * h + 32), high = load_256(w.high + 32 * h);
      const __m256i top[4] = {_mm256_slli_epi16(high, 4), _mm256_slli_epi16(high, 2), high, _mm256_srli_epi16(high, 2)};
      const __m256i nibbles[4] = {a, b, _mm256_srli_epi16(a, 4), _mm256_srli_epi16(b, 4)};
      for (int v = 0; v < 4; ++v) {
        out.q[4 * h + v] = _mm256_or_si256(_mm256_and_si256(nibbles[v], low), _mm256_and_si256(top[v], pair));
      }
    }
    const __m128i scales = load_128(w.scales);
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i sorted = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, even_odd));
    for (int g = 0; g < 8; ++g) out.scale[g] = spread(sorted, g);
    out.scales = _mm256_cvtepi8_epi16(scales);
    return out;
  }
  static __m256i dot(const Weights& w, const int8_t* x, const int16_t* sums) noexcept {
    // sum(scale (q - 32) x) = sum(scale q x) - 32 sum(scale sum(x))
    __m256i sum = _mm256_slli_epi32(_mm256_madd_epi16(w.scales, load_256(sums)), 5);
    sum = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
    for (size_t g = 0; g < 8; ++g) {
      const __m256i pairs = _mm256_maddubs_epi16(w.q[g], load_256(x + 32 * g));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, w.scale[g]));
    }
    return sum;
  }
#endif
};

}  // namespace stepahead::STEPAHEAD_ISA
