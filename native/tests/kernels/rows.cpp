// Kernels along one row: quantisation, elementwise functions, norm, rotation, what goes into the KV cache.
#include "core/error.h"
#include "tests/kernels/cases.h"

namespace kernel_tests {
namespace {

using stepahead::join;

constexpr size_t kSizes[] = {1, 3, 4, 7, 8, 9, 15, 16, 31, 32, 33, 64, 100, 257};

void test_quantize_row(size_t n, size_t block, Kind kind) {
  Random random(n + block);
  const auto x = floats(random, n, kind);
  struct Result {
    std::vector<int8_t> q;
    std::vector<float> d;
    std::vector<int16_t> sums;
  };
  const auto quantize = [&](const KernelTable& table) {
    Result result{std::vector<int8_t>(n), std::vector<float>(n / block), std::vector<int16_t>(n / 16)};
    table.quantize_row(x.data(), n, block, result.q.data(), result.d.data(), result.sums.data());
    return result;
  };
  const Result expected = quantize(scalar());
  for (const KernelTable* table : vector_tables()) {
    const Result actual = quantize(*table);
    const std::string what = join("quantize_row, n ", n, ", block ", block, ", kind ", int(kind));
    Comparison(*table, what + ", q").same(actual.q, expected.q);
    Comparison(*table, what + ", d").same(actual.d, expected.d);
    Comparison(*table, what + ", sums").same(actual.sums, expected.sums);
  }
}

// One call of a table's function on out (n,), which holds `in` before.
template <class Call>
void compare(const std::string& what, const std::vector<float>& in, const Call& call) {
  auto expected = in;
  call(scalar(), expected.data());
  for (const KernelTable* table : vector_tables()) {
    auto actual = in;
    call(*table, actual.data());
    Comparison(*table, what).same(actual, expected);
  }
}

void test_elementwise(size_t n, Kind kind) {
  Random random(n);
  const auto x = floats(random, n, kind), y = floats(random, n, Kind::Special), out = floats(random, n, Kind::Normal);
  const auto of = [&](const char* name) { return join(name, ", n ", n, ", kind ", int(kind)); };
  compare(of("add"), out, [&](const KernelTable& t, float* o) { t.add(x.data(), y.data(), n, o); });
  compare(of("add_scaled"), out, [&](const KernelTable& t, float* o) { t.add_scaled(x.data(), 0.3f, n, o); });
  compare(of("scale"), out, [&](const KernelTable& t, float* o) { t.scale(x.data(), -1.7f, n, o); });
  compare(of("sigmoid"), out, [&](const KernelTable& t, float* o) { t.sigmoid(x.data(), n, o); });
  compare(of("exp"), out, [&](const KernelTable& t, float* o) { t.exp(x.data(), n, o); });
  for (const float limit : {0.0f, 1e-6f, 0.25f, 7.0f, float_of(0x7FC00000)}) {
    compare(of("swiglu"), out, [&](const KernelTable& t, float* o) { t.swiglu(x.data(), y.data(), n, limit, o); });
    compare(of("swiglu, hostile up"), out,
            [&](const KernelTable& t, float* o) { t.swiglu(y.data(), x.data(), n, limit, o); });
  }
  for (const float* weight : {static_cast<const float*>(nullptr), y.data()}) {
    compare(of("rms_norm"), out, [&](const KernelTable& t, float* o) { t.rms_norm(x.data(), weight, n, 1e-5f, o); });
  }
  const auto cos = floats(random, n, Kind::Normal), sin = floats(random, n, kind);
  compare(of("rope"), floats(random, 2 * n, kind),
          [&](const KernelTable& t, float* o) { t.rope(o, cos.data(), sin.data(), n); });
}

// Every exponent and sign, with mantissas in between.
void test_every_magnitude() {
  std::vector<float> x;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 0x1F0F1) x.push_back(float_of(static_cast<uint32_t>(bits)));
  const size_t n = x.size();
  compare("exp of every magnitude", x, [&](const KernelTable& t, float* o) { t.exp(x.data(), n, o); });
  compare("sigmoid of every magnitude", x, [&](const KernelTable& t, float* o) { t.sigmoid(x.data(), n, o); });
  compare("swiglu of every magnitude", x,
          [&](const KernelTable& t, float* o) { t.swiglu(x.data(), x.data(), n, 0.0f, o); });
}

void test_kv_store(size_t head_dim, Kind kind) {
  Random random(head_dim);
  const auto x = floats(random, head_dim, kind);
  for (size_t type = 0; type < 3; ++type) {
    if (type == 2 && head_dim % 32 != 0) continue;
    const size_t bytes = type == 0 ? 4 * head_dim : type == 1 ? 2 * head_dim : head_dim / 32 * 34;
    std::vector<uint8_t> expected(bytes), actual(bytes);
    scalar().kv_store[type](x.data(), head_dim, expected.data());
    for (const KernelTable* table : vector_tables()) {
      table->kv_store[type](x.data(), head_dim, actual.data());
      const Comparison check(*table, join("kv_store ", type, ", head_dim ", head_dim, ", kind ", int(kind)));
      type == 1 ? check.same_halves(actual, expected) : check.same(actual, expected);
    }
  }
}

}  // namespace

void test_rows() {
  for (size_t i = 0; i < kNumKinds; ++i) {
    const auto kind = static_cast<Kind>(i);
    for (const size_t block : {32, 256}) {
      for (const size_t blocks : {1, 2, 5}) test_quantize_row(blocks * block, block, kind);
    }
    for (const size_t n : kSizes) test_elementwise(n, kind);
    for (const size_t head_dim : {1, 5, 8, 20, 32, 64, 96}) test_kv_store(head_dim, kind);
  }
  test_every_magnitude();
}

}  // namespace kernel_tests
