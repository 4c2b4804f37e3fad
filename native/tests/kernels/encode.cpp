// The encoders of every instruction set against the portable ones, byte for byte, on ordinary and hostile numbers.
#include "encode/encode.h"

#include <cmath>
#include <cstdio>

#include "tests/check.h"
#include "tests/kernels/cases.h"

namespace kernel_tests {
namespace {

using stepahead::EncodeTable;
using stepahead::Encoder;

constexpr size_t kRows = 3, kWidth = 5120;  // a part of a row and a rest

std::vector<uint8_t> encoded(const Encoder& encoder, const std::vector<float>& x, const float* importance,
                             int threads) {
  std::vector<uint8_t> out(kRows * kWidth / encoder.block_size * encoder.block_bytes);
  CHECK(stepahead::encode_rows(encoder, {x.data(), importance, kRows, kWidth}, threads, out.data()) == SIZE_MAX);
  return out;
}

void test_encoder(const Encoder& encoder, Kind kind) {
  Random random(static_cast<uint64_t>(encoder.ggml_id) + 1);
  auto x = floats(random, kRows * kWidth, kind), importance = floats(random, kWidth, Kind::Special);
  for (float& value : x) value = std::fmin(std::fmax(value, -encoder.limit), encoder.limit);
  for (float& weight : importance) weight = std::fabs(weight);
  for (const float* weights : {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
    const auto expected = encoded(encoder, x, weights, 1);
    for (const EncodeTable* table : stepahead::available_encoders()) {
      for (const int threads : {1, 3}) {
        const auto& other = stepahead::find_encoder(encoder.ggml_id, table->name);
        if (encoded(other, x, weights, threads) == expected) continue;
        std::fprintf(stderr, "%s: encoder of type %d, kind %d: other bytes than portable\n", table->name,
                     encoder.ggml_id, int(kind));
        ++failed_checks;
      }
    }
  }
}

}  // namespace

void test_encoders() {
  for (const Encoder& encoder : stepahead::portable_encoders.encoders) {
    for (const Kind kind : {Kind::Normal, Kind::Scaled, Kind::Largest, Kind::Special}) test_encoder(encoder, kind);
  }
}

}  // namespace kernel_tests
