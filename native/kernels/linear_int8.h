// y[r][o] = x[r] . w[o] for quantised weights and int8 activations. Per output one float accumulator, one update a
// block in ascending K:  acc = fma(d_x, v, acc), where v is the block's value before the activation's scale:
// integer sums, exact, then the few float roundings each format names. See docs/numerics.md.
#pragma once

#include "isa/kernel_table.h"
#include "kernels/formats.h"

#if defined(STEPAHEAD_VECTOR_AVX512)
#include "kernels/linear_int8_avx512.h"
#else

namespace stepahead::STEPAHEAD_ISA {

#if !defined(STEPAHEAD_VECTOR_AVX2)

template <class Format>
static void linear_int8(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                        const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  constexpr size_t elements = Format::elements;
  for (size_t o = begin; o < end; ++o) {
    const auto* w = reinterpret_cast<const typename Format::Block*>(matrix + o * row_bytes);
    for (size_t r = 0; r < num_rows; ++r) {
      float acc = 0.0f;
      for (size_t b = 0; b < num_in / elements; ++b) {
        const float v = Format::value(w[b], rows[r].q + b * elements, rows[r].sums + b * (elements / 16));
        acc = fma(rows[r].d[b], v, acc);
      }
      y[r][o] = acc;
    }
  }
}

#else

static constexpr size_t kLanes = 8;

// Eight output rows side by side, lane i of acc[r] is output i: a weight block is unpacked once for all R rows, its
// integer products are summed within vectors, and the float update is one fma for eight outputs.
// Eight short streams are more than the hardware prefetchers follow (measured on a Zen 5: 8 GB/s a core for Q4_K, 25
// from the cache); the next tile is one stretch of memory, asked for in the order it lies.
template <class Format, size_t R>
static void tile_int8(const typename Format::Block* const* w, size_t num_blocks, const ActivationRow* rows,
                      float* const* y, size_t num_out, const char* next) noexcept {
  constexpr size_t elements = Format::elements, tile_bytes = kLanes * sizeof(typename Format::Block);
  __m256 acc[R];
  for (size_t r = 0; r < R; ++r) acc[r] = _mm256_setzero_ps();
  for (size_t b = 0; b < num_blocks; ++b) {
    if (next != nullptr) {
      for (size_t i = 0; i < tile_bytes; i += 64) _mm_prefetch(next + b * tile_bytes + i, _MM_HINT_T0);
    }
    __m256i parts[R][kLanes];
    typename Format::Tile tile;
    for (size_t o = 0; o < kLanes; ++o) {
      const auto weights = Format::unpack(w[o][b], tile, o);
#pragma GCC unroll 4
      for (size_t r = 0; r < R; ++r) {
        parts[r][o] = Format::dot(weights, rows[r].q + b * elements, rows[r].sums + b * (elements / 16));
      }
    }
    tile.load_scales(w, b);
#pragma GCC unroll 4
    for (size_t r = 0; r < R; ++r) {
      const __m256 v = tile.value(sum_lanes_of_8(parts[r]), rows[r].sums + b * (elements / 16));
      acc[r] = _mm256_fmadd_ps(_mm256_set1_ps(rows[r].d[b]), v, acc[r]);
    }
  }
  for (size_t r = 0; r < R; ++r) {
    if (num_out == kLanes) {
      _mm256_storeu_ps(y[r], acc[r]);
    } else {
      float lanes[kLanes];
      _mm256_storeu_ps(lanes, acc[r]);
      memcpy(y[r], lanes, num_out * sizeof(float));
    }
  }
}

template <class Format>
static void linear_int8(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                        const ActivationRow* rows, size_t num_rows, float* const* y) noexcept {
  const size_t num_blocks = num_in / Format::elements;
  for (size_t o = begin; o < end; o += kLanes) {
    const size_t n = end - o < kLanes ? end - o : kLanes;
    const typename Format::Block* w[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {  // past the end the last row again: its lanes are not stored
      w[i] = reinterpret_cast<const typename Format::Block*>(matrix + (o + (i < n ? i : n - 1)) * row_bytes);
    }
    const char* next = nullptr;
    if (end - o > kLanes) next = reinterpret_cast<const char*>(matrix + (o + kLanes) * row_bytes);
    for (size_t r = 0; r < num_rows; r += 4, next = nullptr) {
      const size_t count = num_rows - r < 4 ? num_rows - r : 4;
      float* out[4];
      for (size_t i = 0; i < count; ++i) out[i] = y[r + i] + o;
      switch (count) {
        case 4: tile_int8<Format, 4>(w, num_blocks, rows + r, out, n, next); break;
        case 3: tile_int8<Format, 3>(w, num_blocks, rows + r, out, n, next); break;
        case 2: tile_int8<Format, 2>(w, num_blocks, rows + r, out, n, next); break;
        default: tile_int8<Format, 1>(w, num_blocks, rows + r, out, n, next); break;
      }
    }
  }
}

#endif

}  // namespace stepahead::STEPAHEAD_ISA

#endif
