// Output rows as the dwords of a vector: all that formats_lanes.h and linear_lanes.h know of NEON, with or without the
// instructions for dot products.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/number.h"

namespace stepahead::STEPAHEAD_ISA {

static constexpr size_t kLanes = 4;
static constexpr size_t kRowsAtOnce = 5;  // activation rows that share the unpacking of the weights
static constexpr size_t kRowsOfGroup = 5, kColumnsOfGroup = 1;  // that share loads where weights are unpacked already

using Dwords = uint32x4_t;  // with the operators & | ^ of GCC and Clang
using Floats = float32x4_t;
using Scale = int32x4_t;

static STEPAHEAD_INLINE Dwords load_dwords(const void* p) noexcept {
  return vreinterpretq_u32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}
static STEPAHEAD_INLINE void store_dwords(void* p, Dwords x) noexcept {
  vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_u32(x));
}
static STEPAHEAD_INLINE Floats load_floats(const float* p) noexcept { return vld1q_f32(p); }
static STEPAHEAD_INLINE void store_floats(float* p, Floats x) noexcept { vst1q_f32(p, x); }
static STEPAHEAD_INLINE void store_floats(float* p, Floats x, size_t count) noexcept {
  if (count == kLanes) return store_floats(p, x);
  float lanes[kLanes];
  vst1q_f32(lanes, x);
  memcpy(p, lanes, count * sizeof(float));
}
static STEPAHEAD_INLINE Floats load_halves(const uint8_t* p) noexcept {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
static STEPAHEAD_INLINE Dwords load_bytes(const uint8_t* p) noexcept {
  return vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(load_u32(p))))));
}

static STEPAHEAD_INLINE Dwords splat(int dword) noexcept { return vdupq_n_u32(static_cast<uint32_t>(dword)); }
static STEPAHEAD_INLINE Dwords splat_byte(int byte) noexcept {
  return vreinterpretq_u32_u8(vdupq_n_u8(static_cast<uint8_t>(byte)));
}
static STEPAHEAD_INLINE Floats splat_float(float x) noexcept { return vdupq_n_f32(x); }
static STEPAHEAD_INLINE Dwords zero_dwords() noexcept { return vdupq_n_u32(0); }
static STEPAHEAD_INLINE Floats zero_floats() noexcept { return vdupq_n_f32(0.0f); }

// Of 16-bit words: bits that cross a byte are for the caller to mask.
template <int bits>
static STEPAHEAD_INLINE Dwords shift_left(Dwords x) noexcept {
  return vreinterpretq_u32_u16(vshlq_n_u16(vreinterpretq_u16_u32(x), bits));
}
template <int bits>
static STEPAHEAD_INLINE Dwords shift_right(Dwords x) noexcept {
  return vreinterpretq_u32_u16(vshrq_n_u16(vreinterpretq_u16_u32(x), bits));
}

// The upper nibble of each byte.
static STEPAHEAD_INLINE Dwords high_nibbles(Dwords x) noexcept {
  return vreinterpretq_u32_u8(vshrq_n_u8(vreinterpretq_u8_u32(x), 4));
}

// Byte j of each dword, zeros above.
static STEPAHEAD_INLINE Dwords byte_of_dwords(Dwords x, int j) noexcept {
  return vshlq_u32(x, vdupq_n_s32(-8 * j)) & splat(0xFF);
}

// The bytes j of the lanes as words, then the bytes k of the lanes: the order of vmlal_lane_s16.
static STEPAHEAD_INLINE Dwords bytes_to_words(Dwords x, int j, int k) noexcept {
  const Dwords first = byte_of_dwords(x, j), second = j == k ? first : byte_of_dwords(x, k);
  return vreinterpretq_u32_u16(vuzp1q_u16(vreinterpretq_u16_u32(first), vreinterpretq_u16_u32(second)));
}
static STEPAHEAD_INLINE Dwords signed_bytes_to_words(Dwords x, int j, int k) noexcept {
  const int16x8_t words = vreinterpretq_s16_u32(bytes_to_words(x, j, k));
  return vreinterpretq_u32_s16(vshrq_n_s16(vshlq_n_s16(words, 8), 8));
}
static STEPAHEAD_INLINE Dwords negative_words(Dwords x) noexcept {
  return vreinterpretq_u32_s16(vnegq_s16(vreinterpretq_s16_u32(x)));
}

static STEPAHEAD_INLINE Dwords add_bytes(Dwords a, Dwords b) noexcept {
  return vreinterpretq_u32_u8(vaddq_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b)));
}

// Sixteen bytes for look_up, which takes bytes from 0 to 15 to those at that place.
static STEPAHEAD_INLINE Dwords broadcast_16(const int8_t* table) noexcept { return load_dwords(table); }
static STEPAHEAD_INLINE Dwords look_up(Dwords table, Dwords index) noexcept {
  return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(table), vreinterpretq_u8_u32(index)));
}

// Bytes of each dword to its bytes: `pattern` says which, a byte each.
static STEPAHEAD_INLINE Dwords shuffle_bytes(Dwords x, int pattern) noexcept {
  return look_up(x, splat(pattern) + Dwords{0, 0x04040404, 0x08080808, 0x0C0C0C0C});
}

// Entries of a table of 256 words for the four codes in each dword.
class WordsOfCodes {
 public:
  STEPAHEAD_INLINE WordsOfCodes(const uint16_t* table, Dwords codes) noexcept : table_(table) {
    store_dwords(codes_, codes);
  }

  // The entry for code j, each of its two bytes twice.
  STEPAHEAD_INLINE Dwords twice(size_t j) const noexcept {
    const auto entry = [&](size_t lane) { return uint32_t{table_[codes_[4 * lane + j]]}; };
    return shuffle_bytes(Dwords{entry(0), entry(1), entry(2), entry(3)}, 0x01010000);
  }

 private:
  const uint16_t* table_;
  uint8_t codes_[4 * kLanes];
};

// Bits 4 c to 4 c + 3 of each dword to its bytes: `value` where they are set.
static STEPAHEAD_INLINE Dwords bits_to_bytes(Dwords x, size_t c, int value) noexcept {
  const Dwords bits = splat(c % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010));
  const Dwords spread = shuffle_bytes(x, static_cast<int>(c / 2) * 0x01010101);
  return vreinterpretq_u32_u8(vtstq_u8(vreinterpretq_u8_u32(spread), vreinterpretq_u8_u32(bits))) & splat_byte(value);
}

template <int bits>
static STEPAHEAD_INLINE Dwords shift_dwords_left(Dwords x) noexcept {
  return vshlq_n_u32(x, bits);
}

// 2^(x - 128), x from 0 to 255; the first two are denormal.
static STEPAHEAD_INLINE Floats half_powers_of_two(Dwords x) noexcept {
  const Dwords normal = vshlq_n_u32(x - splat(1), 23);
  const Dwords denormal = vshlq_u32(splat(0x00200000), vreinterpretq_s32_u32(x));
  return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(x, splat(2)), denormal, normal));
}

static STEPAHEAD_INLINE Scale byte_to_scale(Dwords x, int j) noexcept {
  return vreinterpretq_s32_u32(byte_of_dwords(x, j));
}
static STEPAHEAD_INLINE Scale signed_byte_to_scale(Dwords x, int j) noexcept {
  return vshrq_n_s32(vshlq_s32(vreinterpretq_s32_u32(x), vdupq_n_s32(24 - 8 * j)), 24);
}

static STEPAHEAD_INLINE Floats low_halves(Dwords x) noexcept {
  return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(x)));
}
static STEPAHEAD_INLINE Floats high_halves(Dwords x) noexcept {
  return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(x, 16)));
}
static STEPAHEAD_INLINE Floats to_floats(Dwords x) noexcept { return vcvtq_f32_s32(vreinterpretq_s32_u32(x)); }
static STEPAHEAD_INLINE Floats multiply(Floats a, Floats b) noexcept { return vmulq_f32(a, b); }
static STEPAHEAD_INLINE Floats fma(Floats a, Floats b, Floats c) noexcept { return vfmaq_f32(c, a, b); }
static STEPAHEAD_INLINE Floats minus_fma(Floats a, Floats b, Floats c) noexcept { return vfmsq_f32(c, a, b); }

// Four bytes in every lane.
static STEPAHEAD_INLINE Dwords broadcast_dword(const void* p) noexcept {
  return vdupq_n_u32(load_u32(static_cast<const uint8_t*>(p)));
}

// sum + the products of the two words of each lane with the two int16 of every lane of x
static STEPAHEAD_INLINE Dwords add_word_products(Dwords sum, Dwords words, Dwords x) noexcept {
  const int16x8_t w = vreinterpretq_s16_u32(words);
  const int16x4_t of_lane = vget_low_s16(vreinterpretq_s16_u32(x));
  const int32x4_t first = vmlal_lane_s16(vreinterpretq_s32_u32(sum), vget_low_s16(w), of_lane, 0);
  return vreinterpretq_u32_s32(vmlal_high_lane_s16(first, w, of_lane, 1));
}

#if defined(STEPAHEAD_VECTOR_DOTPROD)

// dot[r] += the products of the dwords [c, c + 4) of weights with sixteen activations
template <size_t R, class Weights>
static STEPAHEAD_INLINE void add_four_dwords(int32x4_t* dot, const ActivationRow* rows, size_t k, size_t c,
                                             const Weights& weights) noexcept {
  int8x16_t w[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) w[i] = vreinterpretq_s8_u32(weights(c + i));
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    const int8x16_t x = vld1q_s8(rows[r].q + k + 4 * c);
    dot[r] = vdotq_laneq_s32(dot[r], w[0], x, 0);
    dot[r] = vdotq_laneq_s32(dot[r], w[1], x, 1);
    dot[r] = vdotq_laneq_s32(dot[r], w[2], x, 2);
    dot[r] = vdotq_laneq_s32(dot[r], w[3], x, 3);
  }
}

// sum[r] += scale * (the products of n dwords of weights, from `weights(c)`, with the activations from k on), exactly.
// Weights are bytes from `lowest` to `highest`.
template <int lowest, int highest, size_t R, size_t n, bool scaled, class Weights>
static STEPAHEAD_INLINE void add_products(Dwords* sum, Scale scale, const ActivationRow* rows, size_t k,
                                          const Weights& weights) noexcept {
  static_assert(lowest >= -128 && highest <= 127 && n % 4 == 0);
  int32x4_t dot[R];
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) dot[r] = scaled ? vdupq_n_s32(0) : vreinterpretq_s32_u32(sum[r]);
#pragma GCC unroll 2
  for (size_t c = 0; c < n; c += 4) add_four_dwords<R>(dot, rows, k, c, weights);
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    sum[r] = vreinterpretq_u32_s32(scaled ? vmlaq_s32(vreinterpretq_s32_u32(sum[r]), scale, dot[r]) : dot[r]);
  }
}

#else

// The same. A product is an int16, which holds the sum of `step` of them before it is widened; the four products of a
// lane's dword stay apart until the end.
template <int lowest, int highest, size_t R, size_t n, bool scaled, class Weights>
static STEPAHEAD_INLINE void add_products(Dwords* sum, Scale scale, const ActivationRow* rows, size_t k,
                                          const Weights& weights) noexcept {
  constexpr size_t most = highest > -lowest ? highest : -lowest, fit = 32767 / (127 * most);
  constexpr size_t step = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  static_assert(lowest >= -128 && highest <= 127 && fit >= 1);
  int16x8_t words[R][2];
  int32x4_t dot[R][2];  // two sums of each of the lanes 0 and 1, and of the lanes 2 and 3
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) dot[r][0] = dot[r][1] = vdupq_n_s32(0);
#pragma GCC unroll 8
  for (size_t c = 0; c < n; ++c) {
    const int8x16_t w = vreinterpretq_s8_u32(weights(c));
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      const int8x16_t x = vreinterpretq_s8_u32(broadcast_dword(rows[r].q + k + 4 * c));
      const int8x8_t low_w = vget_low_s8(w), low_x = vget_low_s8(x);
      words[r][0] = c % step == 0 ? vmull_s8(low_w, low_x) : vmlal_s8(words[r][0], low_w, low_x);
      words[r][1] = c % step == 0 ? vmull_high_s8(w, x) : vmlal_high_s8(words[r][1], w, x);
      if (c % step == step - 1 || c == n - 1) {
        dot[r][0] = vpadalq_s16(dot[r][0], words[r][0]);
        dot[r][1] = vpadalq_s16(dot[r][1], words[r][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    const int32x4_t all = vpaddq_s32(dot[r][0], dot[r][1]), before = vreinterpretq_s32_u32(sum[r]);
    sum[r] = vreinterpretq_u32_s32(scaled ? vmlaq_s32(before, scale, all) : vaddq_s32(before, all));
  }
}

#endif

// n dwords from `at(row)` on, for each of four rows: dword i of the rows to out[i].
template <size_t n, class At>
static STEPAHEAD_INLINE void load_dwords_of_rows(const At& at, Dwords* out) noexcept {
  if constexpr (n == 1) {
    out[0] = Dwords{load_u32(at(0)), load_u32(at(1)), load_u32(at(2)), load_u32(at(3))};
  } else {
    static_assert(n % 4 == 0);
#pragma GCC unroll 2
    for (size_t i = 0; i < n; i += 4) {
      Dwords in[4];
#pragma GCC unroll 4
      for (size_t g = 0; g < 4; ++g) in[g] = load_dwords(at(g) + 4 * i);
      const auto even = [](Dwords a, Dwords b) { return vreinterpretq_u64_u32(vtrn1q_u32(a, b)); };
      const auto odd = [](Dwords a, Dwords b) { return vreinterpretq_u64_u32(vtrn2q_u32(a, b)); };
      const uint64x2_t a = even(in[0], in[1]), b = odd(in[0], in[1]), c = even(in[2], in[3]), d = odd(in[2], in[3]);
      out[i] = vreinterpretq_u32_u64(vtrn1q_u64(a, c));
      out[i + 1] = vreinterpretq_u32_u64(vtrn1q_u64(b, d));
      out[i + 2] = vreinterpretq_u32_u64(vtrn2q_u64(a, c));
      out[i + 3] = vreinterpretq_u32_u64(vtrn2q_u64(b, d));
    }
  }
}

// The byte at `at(row)` of each of four rows, as a dword.
template <class At>
static STEPAHEAD_INLINE Dwords load_bytes_of_rows(const At& at) noexcept {
  return Dwords{*at(0), *at(1), *at(2), *at(3)};
}

// The half at `at(row)` of each of four rows.
template <class At>
static STEPAHEAD_INLINE Floats load_halves_of_rows(const At& at) noexcept {
  const uint16x4_t halves = {load_u16(at(0)), load_u16(at(1)), load_u16(at(2)), load_u16(at(3))};
  return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

}  // namespace stepahead::STEPAHEAD_ISA
