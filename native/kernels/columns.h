// One block of each of kLanes output rows, in either layout: dwords of them side by side, a row in each lane.
#pragma once

#include "isa/kernel_table.h"

#if defined(STEPAHEAD_VECTOR_AVX512)
#include "kernels/lanes_avx512.h"
#elif defined(STEPAHEAD_VECTOR_NEON)
#include "kernels/lanes_neon.h"
#else
#include "kernels/lanes_avx2.h"
#endif

namespace stepahead::STEPAHEAD_ISA {

template <size_t n>
struct TurnedDwords {
  Dwords dword[n];
  STEPAHEAD_INLINE Dwords operator[](size_t c) const noexcept { return dword[c]; }
  STEPAHEAD_INLINE void copy(Dwords* out) const noexcept {
#pragma GCC unroll 8
    for (size_t c = 0; c < n; ++c) out[c] = dword[c];
  }
};

// Dwords that lie as they are wanted: read where they are used, as often as they are.
template <size_t n>
struct PanelDwords {
  const uint8_t* at;
  STEPAHEAD_INLINE void copy(Dwords* out) const noexcept {
#pragma GCC unroll 8
    for (size_t c = 0; c < n; ++c) out[c] = (*this)[c];
  }
  STEPAHEAD_INLINE Dwords operator[](size_t c) const noexcept { return load_dwords(at + 4 * kTileRows * c); }
};

// Rows as in the file, turned when loaded. So many streams are more than the hardware prefetchers follow (measured on a
// Zen 5 with sixteen: 12 GB/s a core for Q4_K, 46 with `prefetch_next`), so what comes is asked for.
template <class Format>
struct PlainColumn {
  using Block = typename Format::Block;
  const Block* const* rows;
  size_t b, num_blocks;
  bool more;  // another tile follows, one stretch of memory

  const uint8_t* at(size_t row, size_t offset) const noexcept {
    return reinterpret_cast<const uint8_t*>(rows[row] + b) + offset;
  }

  STEPAHEAD_INLINE void prefetch() const noexcept {
    if constexpr (!large) prefetch_ahead();
  }

  // The dwords from byte `offset` of the block on.
  template <size_t n>
  STEPAHEAD_INLINE TurnedDwords<n> dwords(size_t offset) const noexcept {
    if constexpr (large) prefetch_next<4 * n>(offset);
    TurnedDwords<n> out;
    load_dwords_of_rows<n>([&](size_t row) { return at(row, offset); }, out.dword);
    return out;
  }

  STEPAHEAD_INLINE Floats halves(size_t offset) const noexcept {
    return load_halves_of_rows([&](size_t row) { return at(row, offset); });
  }

  STEPAHEAD_INLINE Dwords bytes(size_t offset) const noexcept {
    return load_bytes_of_rows([&](size_t row) { return at(row, offset); });
  }

 private:
  static constexpr bool large = sizeof(Block) > 64;

  // Large blocks: of the next tile, in the order it lies, as many bytes as are loaded. In parts, between the
  // computations: all at once they would wait for each other.
  template <size_t count>
  STEPAHEAD_INLINE void prefetch_next(size_t offset) const noexcept {
    if (!more) return;
    const auto* next_tile = reinterpret_cast<const char*>(rows[0] + kLanes * num_blocks);
    const char* next = next_tile + kLanes * (b * sizeof(Block) + offset);
    for (size_t i = 0; i < kLanes * count; i += 64) __builtin_prefetch(next + i);
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
    for (size_t i = 0; i < kLanes; ++i) __builtin_prefetch(reinterpret_cast<const char*>(rows[i]) + at);
  }
};

// Interleaved rows (isa/kernel_table.h), from lane 0 or, in narrower vectors, another multiple of kLanes on. One
// stream, and yet the hardware prefetchers do not keep up beside the activations (measured on a Zen 5, Q4_K: 26 GB/s
// a core at one row and 8 at eight rows; with prefetching 40 and 21).
template <class Format>
struct PanelColumn {
  static constexpr const TypeInfo& type = info(Format::type);
  const uint8_t* block;  // its dword 0 of the first lane
  const uint8_t* rest;   // its rest of the first lane
  size_t part;           // which lanes of the panel

  STEPAHEAD_INLINE void prefetch() const noexcept {}

  template <size_t n>
  STEPAHEAD_INLINE PanelDwords<n> dwords(size_t offset) const noexcept {
    const uint8_t* at = block + kTileRows * (offset - type.dwords_at());
    constexpr size_t ahead = 8192, line = 64;
    // The parts of a panel share its lines. Four of them divide the asking; two were not faster for it.
    constexpr size_t share = kLanes == 4 ? (n + 3) / 4 : n;
    const size_t first = kLanes == 4 ? share * part : 0;
    for (size_t i = 0; i < share; ++i) __builtin_prefetch(at + line * (first + i) + ahead);
    return {at};
  }

  // Of what no dword holds.
  STEPAHEAD_INLINE Floats halves(size_t) const noexcept {
    static_assert(type.rest() == 2);
    __builtin_prefetch(rest + 1024);
    return load_halves(rest);
  }

  STEPAHEAD_INLINE Dwords bytes(size_t) const noexcept {
    static_assert(type.rest() == 1);
    return load_bytes(rest);
  }
};

}  // namespace stepahead::STEPAHEAD_ISA
