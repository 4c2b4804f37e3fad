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
  constexpr size_t n = Codec::elements;
  typename Codec::Block block;
  for (size_t b = 0; b < num_blocks; ++b) {
    if (importance == nullptr) {
      Codec::template encode<false>(x + b * n, x + b * n, block);
    } else {
      float w[n];
      load_weights<n>(importance + b * n, w);
      Codec::template encode<true>(x + b * n, w, block);
    }
    memcpy(out + b * sizeof(block), &block, sizeof(block));
  }
}

// Those that have a quick way for blocks without weights.
template <class Codec>
static void encode_legacy(const float* x, const float* importance, size_t num_blocks, uint8_t* out) noexcept {
  constexpr size_t n = Codec::elements, size = sizeof(typename Codec::Block);
  typename Codec::Block blocks[8];
  for (size_t b = 0; b < num_blocks; b += 8) {
    const size_t count = num_blocks - b < 8 ? num_blocks - b : 8;
    if (importance == nullptr) {
      Codec::encode_quickly(x + b * n, count, blocks);
    } else {
      for (size_t i = 0; i < count; ++i) {
        float w[n];
        load_weights<n>(importance + (b + i) * n, w);
        Codec::encode(x + (b + i) * n, w, blocks[i]);
      }
    }
    memcpy(out + b * size, blocks, count * size);
  }
}

template <class Codec>
static void encode_floats(const float* x, const float*, size_t count, uint8_t* out) noexcept {
  for (size_t i = 0; i < count; ++i) {
    const typename Codec::Block number = Codec::encode(x[i]);
    memcpy(out + i * sizeof(number), &number, sizeof(number));
  }
}

template <class Codec>
static consteval Encoder encoder(int ggml_id, BlockEncoder encode = encode_blocks<Codec>) {
  return {ggml_id, Codec::elements, sizeof(typename Codec::Block), Codec::limit, encode};
}

template <class Codec>
static consteval Encoder legacy(int ggml_id) {
  return encoder<Codec>(ggml_id, encode_legacy<Codec>);
}

template <class Codec>
static consteval Encoder floats(int ggml_id) {
  return encoder<Codec>(ggml_id, encode_floats<Codec>);
}

static consteval EncodeTable make_table(const char* name) {
  return {name,
          {floats<EncodeF32>(0), floats<EncodeF16>(1), floats<EncodeBF16>(30), legacy<EncodeQ8_0>(8),
           legacy<EncodeQ4_0>(2), legacy<EncodeQ4_1>(3), legacy<EncodeQ5_0>(6), legacy<EncodeQ5_1>(7),
           encoder<EncodeQ2_K>(10), encoder<EncodeQ3_K>(11), encoder<EncodeQ4_K>(12), encoder<EncodeQ5_K>(13),
           encoder<EncodeQ6_K>(14), encoder<EncodeIQ4_NL>(20), encoder<EncodeIQ4_XS>(23), encoder<EncodeMXFP4>(39)}};
}

}  // namespace stepahead::STEPAHEAD_ISA
