// linear of every type, in both layouts, for every number of rows that has a path of its own; and dequantize.
#include "core/error.h"
#include "ops/interleave.h"
#include "tests/kernels/cases.h"

namespace kernel_tests {
namespace {

using stepahead::ActivationRow;
using stepahead::info;
using stepahead::join;
using stepahead::kTileRows;
using stepahead::Layout;
using stepahead::LinearKernel;
using stepahead::Matrix;
using stepahead::WeightType;

constexpr size_t kRowCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 100};
constexpr size_t kMostRows = 100;

// Bytes that end where their memory ends and begin at no round address: a file's blocks lie anywhere.
class Bytes {
 public:
  Bytes(size_t n, size_t alignment) : bytes_(n + alignment), offset_(alignment) {}
  uint8_t* data() { return bytes_.data() + offset_; }

 private:
  std::vector<uint8_t> bytes_;
  size_t offset_;
};

void store_half(uint8_t* at, uint16_t half) { std::memcpy(at, &half, 2); }

// Halves of all magnitudes that are finite, or (hostile) any bits at all.
uint16_t random_half(Random& random, bool hostile) {
  const auto bits = static_cast<uint16_t>(random.next());
  return hostile || (bits & 0x7C00) != 0x7C00 ? bits : static_cast<uint16_t>(bits & 0x83FF);
}

// Where the halves of a block lie; MXFP4 has none.
std::vector<size_t> halves_at(WeightType type) {
  switch (type) {
    case WeightType::MXFP4: return {};
    case WeightType::Q4_1:
    case WeightType::Q5_1:
    case WeightType::Q4_K:
    case WeightType::Q5_K: return {0, 2};
    case WeightType::Q2_K: return {80, 82};
    case WeightType::Q3_K: return {108};
    case WeightType::Q6_K: return {208};
    default: return {0};
  }
}

// One row of weights: scales as above, and integers at random or all at an end of their range.
void fill_row(Random& random, WeightType type, size_t num_in, size_t row, uint8_t* out) {
  const auto& t = info(type);
  const size_t bytes = num_in / t.block_size * t.block_bytes;
  if (t.activation_block == 0) {
    const auto values = floats(random, num_in, static_cast<Kind>(row % kNumKinds));
    for (size_t k = 0; k < num_in; ++k) {
      uint32_t bits;
      std::memcpy(&bits, &values[k], 4);
      if (type == WeightType::F32) std::memcpy(out + 4 * k, &bits, 4);
      if (type == WeightType::BF16) store_half(out + 2 * k, static_cast<uint16_t>(bits >> 16));
      if (type == WeightType::F16) store_half(out + 2 * k, random_half(random, row % kNumKinds == 4));
    }
    return;
  }
  constexpr uint8_t kEnds[] = {0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0};
  const size_t pattern = row % 8;
  for (size_t i = 0; i < bytes; ++i) {
    out[i] = pattern < std::size(kEnds) && row % 16 < 8 ? kEnds[pattern] : static_cast<uint8_t>(random.next());
  }
  for (size_t b = 0; b < num_in / t.block_size; ++b) {
    for (const size_t at : halves_at(type)) {
      store_half(out + b * t.block_bytes + at, random_half(random, row % 16 == 9));
    }
  }
}

// Activations with their int8 twins, by scalar.
struct Activations {
  std::vector<std::vector<float>> x, d;
  std::vector<std::vector<int8_t>> q;
  std::vector<std::vector<int16_t>> sums;
  std::vector<ActivationRow> rows;

  Activations(Random& random, size_t num_in, size_t block) : x(kMostRows), d(kMostRows), q(kMostRows), sums(kMostRows) {
    for (size_t r = 0; r < kMostRows; ++r) {
      x[r] = floats(random, num_in, static_cast<Kind>(r % kNumKinds));
      if (block) {
        d[r].resize(num_in / block);
        q[r].resize(num_in);
        sums[r].resize(num_in / 16);
        scalar().quantize_row(x[r].data(), num_in, block, q[r].data(), d[r].data(), sums[r].data());
      }
      rows.push_back({x[r].data(), q[r].data(), d[r].data(), sums[r].data()});
    }
  }
};

// Outputs of rows [0, num_rows) one after another, each num_out wide; those before `begin` stay untouched.
std::vector<float> product(LinearKernel kernel, const uint8_t* matrix, size_t row_bytes, size_t begin, size_t num_out,
                           size_t num_in, const ActivationRow* rows, size_t num_rows) {
  std::vector<float> y(num_rows * num_out, kUntouched);
  std::vector<float*> pointers(num_rows);
  for (size_t r = 0; r < num_rows; ++r) pointers[r] = y.data() + r * num_out;
  kernel(matrix, row_bytes, begin, num_out, num_in, rows, num_rows, pointers.data());
  return y;
}

void test_product(WeightType type, size_t num_in, size_t num_out) {
  const auto& t = info(type);
  Random random(num_in * 1000 + num_out * 10 + static_cast<size_t>(type));
  const size_t row_bytes = num_in / t.block_size * t.block_bytes;
  Bytes weights(num_out * row_bytes, t.activation_block ? 1 : t.block_bytes);
  for (size_t o = 0; o < num_out; ++o) fill_row(random, type, num_in, o, weights.data() + o * row_bytes);
  const Activations activations(random, num_in, t.activation_block);
  const auto index = static_cast<size_t>(type);

  // Scalar, each row by itself: what a row among others must equal too.
  std::vector<float> expected;
  for (const ActivationRow& row : activations.rows) {
    const auto y = product(scalar().linear[index], weights.data(), row_bytes, 0, num_out, num_in, &row, 1);
    expected.insert(expected.end(), y.begin(), y.end());
  }
  Bytes panels(num_out * row_bytes, 4);
  const bool interleaved = t.activation_block != 0 && num_out % kTileRows == 0;
  if (interleaved) {
    stepahead::Context context(1, "scalar");
    const Matrix plain{type, Layout::Plain, weights.data(), 1, num_out, num_in, row_bytes};
    stepahead::interleave(context, plain, panels.data());
  }
  for (const KernelTable* table : stepahead::available_tables()) {
    for (const size_t rows : kRowCounts) {
      for (const bool in_panels : {false, true}) {
        if (in_panels && !interleaved) continue;
        const LinearKernel kernel = in_panels ? table->linear_interleaved[index] : table->linear[index];
        for (size_t begin = 0; begin < num_out && begin <= kTileRows; begin += kTileRows) {
          auto wanted = expected;
          wanted.resize(rows * num_out);
          for (size_t r = 0; r < rows; ++r) {
            for (size_t o = 0; o < begin; ++o) wanted[r * num_out + o] = kUntouched;
          }
          const Comparison check(*table, join("linear ", t.name, in_panels ? " interleaved" : "", ", ", num_in, " in, ",
                                              num_out, " out from ", begin, ", rows ", rows));
          check.same(product(kernel, in_panels ? panels.data() : weights.data(), row_bytes, begin, num_out, num_in,
                             activations.rows.data(), rows),
                     wanted);
        }
      }
    }
  }
}

void test_dequantize(WeightType type, size_t n) {
  const auto& t = info(type);
  Random random(n + static_cast<size_t>(type));
  const size_t row_bytes = n / t.block_size * t.block_bytes;
  for (size_t row = 0; row < 16; ++row) {
    Bytes weights(row_bytes, t.activation_block ? 1 : t.block_bytes);
    fill_row(random, type, n, row, weights.data());
    std::vector<float> expected(n), actual(n);
    scalar().dequantize[static_cast<size_t>(type)](weights.data(), n, expected.data());
    for (const KernelTable* table : vector_tables()) {
      table->dequantize[static_cast<size_t>(type)](weights.data(), n, actual.data());
      Comparison(*table, join("dequantize ", t.name, ", n ", n, ", row ", row)).same(actual, expected);
    }
  }
}

}  // namespace

void test_linear() {
  for (size_t i = 0; i < stepahead::kNumWeightTypes; ++i) {
    const auto type = static_cast<WeightType>(i);
    const size_t block = info(type).block_size;
    if (block == 1) {
      for (const size_t num_in : {1, 7, 8, 21, 72}) {
        for (const size_t num_out : {1, 3, 16, 39}) test_product(type, num_in, num_out);
      }
    } else {
      for (const size_t num_in : {block, 3 * block}) {
        for (const size_t num_out : {1, 15, 16, 17, 41, 64}) test_product(type, num_in, num_out);
      }
    }
    for (const size_t n : {block, 5 * block, block == 1 ? size_t{37} : 2 * block}) test_dequantize(type, n);
  }
}

}  // namespace kernel_tests
