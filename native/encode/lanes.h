// Eight floats side by side, as the compiler's vectors: the same operations in the same order on every machine, so
// that blocks have the same bytes whatever the instruction set. In a search the lanes are eight candidates; along a
// block, lane k holds the elements k, k + 8, …
#pragma once

#include "kernels/number.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace stepahead::STEPAHEAD_ISA {

#if defined(STEPAHEAD_VECTOR_AVX2)
static constexpr size_t kNativeLanes = 8;
#else
static constexpr size_t kNativeLanes = 4;
#endif
static constexpr size_t kParts = 8 / kNativeLanes;

using Native = float __attribute__((vector_size(4 * kNativeLanes)));
using NativeBits = int32_t __attribute__((vector_size(4 * kNativeLanes)));

struct Lanes {
  Native part[kParts];
};

// Of each lane: all bits or none.
struct LaneMask {
  NativeBits part[kParts];
};

#define STEPAHEAD_LANES_OPERATOR(op)                                            \
  STEPAHEAD_INLINE Lanes operator op(const Lanes& a, const Lanes& b) noexcept { \
    Lanes out;                                                                  \
    for (size_t i = 0; i < kParts; ++i) out.part[i] = a.part[i] op b.part[i];   \
    return out;                                                                 \
  }
STEPAHEAD_LANES_OPERATOR(+)
STEPAHEAD_LANES_OPERATOR(-)
STEPAHEAD_LANES_OPERATOR(*)
STEPAHEAD_LANES_OPERATOR(/)
#undef STEPAHEAD_LANES_OPERATOR

STEPAHEAD_INLINE Lanes all(float x) noexcept {
  Lanes out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = x - Native{};
  return out;
}

STEPAHEAD_INLINE Lanes load_lanes(const float* x) noexcept {
  Lanes out;
  memcpy(&out, x, sizeof(out));
  return out;
}

STEPAHEAD_INLINE void store_lanes(float* x, const Lanes& lanes) noexcept { memcpy(x, &lanes, sizeof(lanes)); }

STEPAHEAD_INLINE LaneMask operator>(const Lanes& a, const Lanes& b) noexcept {
  LaneMask out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = a.part[i] > b.part[i];
  return out;
}

STEPAHEAD_INLINE Lanes select(const LaneMask& mask, const Lanes& yes, const Lanes& no) noexcept {
  Lanes out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = mask.part[i] ? yes.part[i] : no.part[i];
  return out;
}

// `yes` or 0.
STEPAHEAD_INLINE Lanes where(const LaneMask& mask, const Lanes& yes) noexcept {
  Lanes out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = (Native)((NativeBits)yes.part[i] & mask.part[i]);
  return out;
}

// a < b ? a : b and a > b ? a : b. GCC 12 does not find the x86 instructions that are just that.
#if defined(STEPAHEAD_VECTOR_AVX2)
STEPAHEAD_INLINE Native native_min(Native a, Native b) noexcept { return _mm256_min_ps(a, b); }
STEPAHEAD_INLINE Native native_max(Native a, Native b) noexcept { return _mm256_max_ps(a, b); }
#elif defined(__x86_64__)
STEPAHEAD_INLINE Native native_min(Native a, Native b) noexcept { return _mm_min_ps(a, b); }
STEPAHEAD_INLINE Native native_max(Native a, Native b) noexcept { return _mm_max_ps(a, b); }
#else
STEPAHEAD_INLINE Native native_min(Native a, Native b) noexcept { return a < b ? a : b; }
STEPAHEAD_INLINE Native native_max(Native a, Native b) noexcept { return a > b ? a : b; }
#endif

STEPAHEAD_INLINE Lanes smaller(const Lanes& a, const Lanes& b) noexcept {
  Lanes out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = native_min(a.part[i], b.part[i]);
  return out;
}

STEPAHEAD_INLINE Lanes larger(const Lanes& a, const Lanes& b) noexcept {
  Lanes out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = native_max(a.part[i], b.part[i]);
  return out;
}

STEPAHEAD_INLINE Lanes magnitude(const Lanes& a) noexcept {
  Lanes out;
  for (size_t i = 0; i < kParts; ++i) out.part[i] = (Native)((NativeBits)a.part[i] & 0x7FFFFFFF);
  return out;
}

// Adding 1.5 * 2^23 rounds to nearest, ties to even; for less than 2^22.
static constexpr float kRounder = 12582912.0f;

STEPAHEAD_INLINE Lanes nearest_integer(const Lanes& a) noexcept {
  const Lanes rounder = all(kRounder);
  return (a + rounder) - rounder;
}

#if defined(__x86_64__)

struct Halves {
  __m128 low, high;
};

STEPAHEAD_INLINE Halves halves(const Lanes& a) noexcept {
#if defined(STEPAHEAD_VECTOR_AVX2)
  return {_mm256_castps256_ps128(a.part[0]), _mm256_extractf128_ps(a.part[0], 1)};
#else
  return {a.part[0], a.part[1]};
#endif
}

// The tree of the eight lanes, and the largest of them.
STEPAHEAD_INLINE float sum_lanes(const Lanes& a) noexcept {
  const Halves half = halves(a);
  const __m128 four = _mm_add_ps(half.low, half.high), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

STEPAHEAD_INLINE float largest_lane(const Lanes& a) noexcept {
  const Halves half = halves(a);
  const __m128 four = _mm_max_ps(half.low, half.high), two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// The first lane that is the largest.
STEPAHEAD_INLINE size_t best_lane(const Lanes& a) noexcept {
  const Halves half = halves(a);
  const __m128 most = _mm_set1_ps(largest_lane(a));
  const int low = _mm_movemask_ps(_mm_cmpeq_ps(half.low, most)), high = _mm_movemask_ps(_mm_cmpeq_ps(half.high, most));
  return static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(low | high << 4 | 1 << 7)));
}

#else

STEPAHEAD_INLINE float sum_lanes(const Lanes& a) noexcept {
  float lanes[8];
  store_lanes(lanes, a);
  return sum_lanes(lanes);
}

STEPAHEAD_INLINE float largest_lane(const Lanes& a) noexcept {
  float lanes[8];
  store_lanes(lanes, a);
  for (size_t i = 1; i < 8; ++i) lanes[0] = lanes[0] > lanes[i] ? lanes[0] : lanes[i];
  return lanes[0];
}

STEPAHEAD_INLINE size_t best_lane(const Lanes& a) noexcept {
  float lanes[8];
  store_lanes(lanes, a);
  size_t best = 0;
  for (size_t i = 1; i < 8; ++i) best = lanes[i] > lanes[best] ? i : best;
  return best;
}

#endif

STEPAHEAD_INLINE float lane(const Lanes& a, size_t i) noexcept {
  float lanes[8];
  store_lanes(lanes, a);
  return lanes[i];
}

STEPAHEAD_INLINE float smallest_lane(const Lanes& a) noexcept { return -largest_lane(all(0.0f) - a); }

// Codes are packed eight bytes at a time.
static constexpr uint64_t kNibbles = 0x0F0F0F0F0F0F0F0F;

static inline uint64_t load_u64(const uint8_t* p) noexcept {
  uint64_t bits;
  memcpy(&bits, p, 8);
  return bits;
}

static inline void store_u64(uint8_t* p, uint64_t bits) noexcept { memcpy(p, &bits, 8); }

// Integers from 0 to 255 to bytes.
template <size_t n>
static inline void to_bytes(const float* values, uint8_t* out) noexcept {
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(bits_of(values[i] + kRounder));
}

}  // namespace stepahead::STEPAHEAD_ISA
