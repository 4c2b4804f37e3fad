// The blocks of GGUF's quantised types, byte for byte. Members are bytes: a block may lie at any address of a file.
#pragma once

#include "kernels/number.h"

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

}  // namespace stepahead::STEPAHEAD_ISA
