// Included by encode/<name>.cpp after STEPAHEAD_ISA: the encoders of every type, compiled for one instruction set.
#pragma once

#include "encode/encode.h"
#include "encode/floats.h"
#include "encode/iq4.h"
#include "encode/k_quants.h"
#include "encode/legacy.h"
#include "encode/mxfp4.h"

namespace stepahead::STEPAHEAD_ISA {

// A block's weights as parts of the largest; where all are 0, they are equal. None is less than a millionth or so:
// what hardly counts is still to be a number near its own.
template <size_t n>
static inline void load_weights(const float* importance, float* out) noexcept {
  Lanes most = all(0.0f);
  for (size_t i = 0; i < n; i += 8) most = larger(most, load_lanes(importance + i));
  const float largest = largest_lane(most);
  const bool some = largest >= 0x1p-126f;
  const Lanes by = all(some ? 1.0f / largest : 0.0f), least = all(some ? 0x1p-20f : 1.0f);
  for (size_t i = 0; i < n; i += 8) store_lanes(out + i, load_lanes(importance + i) * by + least);
}

template <class Codec>
static void encode_blocks(const float* x, const float* importance, size_t num_blocks, uint8_t* out) noexcept {
  using Block = typename Codec::Block;
  constexpr size_t n = Codec::elements;
  for (size_t b = 0; b < num_blocks; ++b) {
    Block block;
    if constexpr (n >= 32) {
      float w[n];
      if (importance != nullptr) {
        load_weights<n>(importance + b * n, w);
        Codec::template encode<true>(x + b * n, w, block);
      } else {
        Codec::template encode<false>(x + b * n, x + b * n, block);
      }
    } else {
      Codec::template encode<false>(x + b, nullptr, block);
    }
    memcpy(out + b * sizeof(Block), &block, sizeof(Block));
  }
}

template <class Codec>
static consteval Encoder encoder(int ggml_id) {
  return {ggml_id, Codec::elements, sizeof(typename Codec::Block), Codec::limit, encode_blocks<Codec>};
}

static consteval EncodeTable make_table(const char* name) {
  return {name,
          {encoder<EncodeF32>(0), encoder<EncodeF16>(1), encoder<EncodeBF16>(30), encoder<EncodeQ8_0>(8),
           encoder<EncodeQ4_0>(2), encoder<EncodeQ4_1>(3), encoder<EncodeQ5_0>(6), encoder<EncodeQ5_1>(7),
           encoder<EncodeQ2_K>(10), encoder<EncodeQ3_K>(11), encoder<EncodeQ4_K>(12), encoder<EncodeQ5_K>(13),
           encoder<EncodeQ6_K>(14), encoder<EncodeIQ4_NL>(20), encoder<EncodeIQ4_XS>(23), encoder<EncodeMXFP4>(39)}};
}

}  // namespace stepahead::STEPAHEAD_ISA
