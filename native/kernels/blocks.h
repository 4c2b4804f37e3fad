// The blocks of GGUF's quantised types, byte for byte. Members are bytes: a block may lie at any address of a file.
#pragma once

#include "kernels/iq_grids.h"
#include "kernels/number.h"

namespace stepahead {

// Sixteen levels, finer near zero.
inline constexpr int8_t kIQ4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// The values of an E2M1 float (OCP Microscaling formats v1.0, section 5.3.3), doubled to be integers.
inline constexpr int8_t kE2M1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace stepahead

namespace stepahead::STEPAHEAD_ISA {

// 32 elements: y = d q
struct BlockQ8_0 {
  uint8_t d[2];  // half
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34 && alignof(BlockQ8_0) == 1);

// 32 elements: y = d (q - 8); element i in the low nibble of byte i, i + 16 in its high nibble
struct BlockQ4_0 {
  uint8_t d[2];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18 && alignof(BlockQ4_0) == 1);

// 256 elements in eight sub-blocks of 32: y = d scale q - dmin min; q of sub-block 2g in the low nibbles of the bytes
// [32 g, 32 g + 32), of 2g + 1 in the high nibbles. Scales and mins have six bits: bytes 0-3 scales 0-3, bytes 4-7
// mins 0-3, both in the low six bits; bytes 8-11 the low nibbles of scales 4-7 (low) and mins 4-7 (high), whose upper
// two bits top the bytes 0-3 and 4-7.
struct BlockQ4_K {
  uint8_t d[2], dmin[2];
  uint8_t scales[12];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144 && alignof(BlockQ4_K) == 1);

// As Q4_K with a fifth bit: bit s of high[i] belongs to element i of sub-block s.
struct BlockQ5_K {
  uint8_t d[2], dmin[2];
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ5_K) == 176 && alignof(BlockQ5_K) == 1);

// 256 elements in sixteen sub-blocks of 16: y = d scale (q - 32). Two halves of 128 elements, each with 64 bytes of
// low nibbles (elements 0-63 low, 64-127 high) and 32 bytes of upper bit pairs (byte i: elements i, i + 32, …).
struct BlockQ6_K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint8_t d[2];
};
static_assert(sizeof(BlockQ6_K) == 210 && alignof(BlockQ6_K) == 1);

// 32 elements: y = d q + m; nibbles as in Q4_0
struct BlockQ4_1 {
  uint8_t d[2], m[2];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20 && alignof(BlockQ4_1) == 1);

// 32 elements: y = d (q - 16); nibbles as in Q4_0, bit i of `high` is the fifth bit of element i
struct BlockQ5_0 {
  uint8_t d[2];
  uint8_t high[4];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ5_0) == 22 && alignof(BlockQ5_0) == 1);

// 32 elements: y = d q + m; fifth bits and nibbles as in Q5_0
struct BlockQ5_1 {
  uint8_t d[2], m[2];
  uint8_t high[4];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ5_1) == 24 && alignof(BlockQ5_1) == 1);

// 32 elements: y = d level(q), kIQ4Levels; nibbles as in Q4_0
struct BlockIQ4_NL {
  uint8_t d[2];
  uint8_t q[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18 && alignof(BlockIQ4_NL) == 1);

// 32 elements: y = 2^(exponent - 128) level(q), kE2M1Doubled; nibbles as in Q4_0
struct BlockMXFP4 {
  uint8_t exponent;
  uint8_t q[16];
};
static_assert(sizeof(BlockMXFP4) == 17 && alignof(BlockMXFP4) == 1);

// 256 elements in sixteen sub-blocks of 16: y = d scale q - dmin min; scale low and min high in a byte of `scales`.
// Two halves of 128 elements, each with 32 bytes of bit pairs (byte i: elements i, i + 32, …).
struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t q[64];
  uint8_t d[2], dmin[2];
};
static_assert(sizeof(BlockQ2_K) == 84 && alignof(BlockQ2_K) == 1);

// 256 elements in sixteen sub-blocks of 16: y = d (scale - 32) (q - 4). Bit pairs as in Q2_K; bit s of high[i] is the
// third bit of element 32 s + i. Scale j: nibble j / 8 of byte j % 8, topped by bit pair j / 4 of byte 8 + j % 4.
struct BlockQ3_K {
  uint8_t high[32];
  uint8_t q[64];
  uint8_t scales[12];
  uint8_t d[2];
};
static_assert(sizeof(BlockQ3_K) == 110 && alignof(BlockQ3_K) == 1);

// 256 elements in eight sub-blocks of 32, each with nibbles as in Q4_0: y = d (scale - 32) level(q), kIQ4Levels.
// Scale j: nibble j % 2 of low[j / 2], topped by the bit pair j of the uint16 `high`.
struct BlockIQ4_XS {
  uint8_t d[2];
  uint8_t high[2], low[4];
  uint8_t q[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136 && alignof(BlockIQ4_XS) == 1);

// 256 elements in eight sub-blocks of 32: y = d (1/2 + scale) / 2 * sign * point. A code names four elements, a point
// of kIQ3XXSGrid. A dword of `signs` is a sub-block's: four times seven bits for eight elements (set: negative; the
// eighth makes their number even), and on top the scale's four.
struct BlockIQ3_XXS {
  uint8_t d[2];
  uint8_t codes[64];
  uint8_t signs[32];
};
static_assert(sizeof(BlockIQ3_XXS) == 98 && alignof(BlockIQ3_XXS) == 1);

struct ScalesAndMins {
  uint8_t scales[8], mins[8];
};

// Scales 0-3, 4-7, mins 0-3, 4-7, a byte each.
struct ScaleWords {
  uint32_t word[4];
};

static inline ScaleWords unpack_words(const uint8_t* packed) noexcept {
  uint32_t s, m, tail;
  memcpy(&s, packed, 4);
  memcpy(&m, packed + 4, 4);
  memcpy(&tail, packed + 8, 4);
  return {{s & 0x3F3F3F3F, (tail & 0x0F0F0F0F) | (s >> 2 & 0x30303030), m & 0x3F3F3F3F,
           (tail >> 4 & 0x0F0F0F0F) | (m >> 2 & 0x30303030)}};
}

static inline ScalesAndMins unpack_scales(const uint8_t* packed) noexcept {
  const ScaleWords words = unpack_words(packed);
  ScalesAndMins out;
  memcpy(&out, words.word, 16);
  return out;
}

// Element i of a block before scaling, for the scalar code.
static inline int element(const BlockQ8_0& b, size_t i) noexcept { return b.q[i]; }

static inline int element(const BlockQ4_0& b, size_t i) noexcept {
  return (i < 16 ? b.q[i] & 15 : b.q[i - 16] >> 4) - 8;
}

static inline int element(const BlockQ4_K& b, size_t i) noexcept {
  return b.q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
}

static inline int element(const BlockQ5_K& b, size_t i) noexcept {
  return (b.q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) | (b.high[i % 32] >> (i / 32) & 1) << 4;
}

static inline int element(const BlockQ6_K& b, size_t i) noexcept {
  const size_t half = i / 128, j = i % 128;
  const int low = b.low[64 * half + j % 64] >> (j / 64 * 4) & 15;
  const int high = b.high[32 * half + j % 32] >> (j / 32 * 2) & 3;
  return (low | high << 4) - 32;
}

// Nibble i of 32, and with a fifth bit.
static inline int nibble(const uint8_t* q, size_t i) noexcept { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

static inline int five_bits(const uint8_t* q, const uint8_t* high, size_t i) noexcept {
  return nibble(q, i) | (high[i / 8] >> (i % 8) & 1) << 4;
}

static inline int element(const BlockQ4_1& b, size_t i) noexcept { return nibble(b.q, i); }
static inline int element(const BlockQ5_0& b, size_t i) noexcept { return five_bits(b.q, b.high, i) - 16; }
static inline int element(const BlockQ5_1& b, size_t i) noexcept { return five_bits(b.q, b.high, i); }
static inline int element(const BlockIQ4_NL& b, size_t i) noexcept { return kIQ4Levels[nibble(b.q, i)]; }
static inline int element(const BlockMXFP4& b, size_t i) noexcept { return kE2M1Doubled[nibble(b.q, i)]; }

// Bit pair i of 256 in the order of Q2_K.
static inline int bit_pair(const uint8_t* q, size_t i) noexcept {
  return q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

static inline int element(const BlockQ2_K& b, size_t i) noexcept { return bit_pair(b.q, i); }

static inline int element(const BlockQ3_K& b, size_t i) noexcept {
  return (bit_pair(b.q, i) | (b.high[i % 32] >> (i / 32) & 1) << 2) - 4;
}

static inline int element(const BlockIQ4_XS& b, size_t i) noexcept {
  return kIQ4Levels[nibble(b.q + i / 32 * 16, i % 32)];
}

static inline int element(const BlockIQ3_XXS& b, size_t i) noexcept {
  const uint32_t level = kIQ3XXSGrid[b.codes[i / 4]] >> (i % 4 * 4) & 7;
  const uint32_t seven = load_u32(b.signs + i / 32 * 4) >> (i % 32 / 8 * 7) & 127;
  const uint32_t signs = seven | static_cast<uint32_t>(__builtin_parity(seven)) << 7;
  return kIQ3XXSLevels[level | (signs >> (i % 8) & 1) << 3];
}

// What d multiplies before an element of sub-block j does.
static inline int sub_scale(const BlockQ6_K& b, size_t j) noexcept { return b.scales[j]; }

static inline int sub_scale(const BlockQ3_K& b, size_t j) noexcept {
  return ((b.scales[j % 8] >> (j / 8 * 4) & 15) | (b.scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
}

static inline int sub_scale(const BlockIQ4_XS& b, size_t j) noexcept {
  return ((b.low[j / 2] >> (j % 2 * 4) & 15) | (load_u16(b.high) >> (2 * j) & 3) << 4) - 32;
}

static inline int sub_scale(const BlockIQ3_XXS& b, size_t j) noexcept { return 2 * (b.signs[4 * j + 3] >> 4) + 1; }

// The float32 scale of a block, exact.
template <class Block>
static inline float block_scale(const Block& b) noexcept {
  return half_to_float(load_u16(b.d));
}

static inline float block_scale(const BlockIQ3_XXS& b) noexcept { return half_to_float(load_u16(b.d)) * 0.25f; }

// Half of the E8M0 number. Below 2^-126 it is denormal: two codes.
static inline float block_scale(const BlockMXFP4& b) noexcept {
  const uint32_t e = b.exponent;
  return float_of(e < 2 ? 0x00200000u << e : (e - 1) << 23);
}

}  // namespace stepahead::STEPAHEAD_ISA
