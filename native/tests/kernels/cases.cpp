#include "tests/kernels/cases.h"

#include <cmath>
#include <cstdio>

#include "tests/check.h"

namespace kernel_tests {
namespace {

constexpr float kSpecial[] = {
    0.0f,      -0.0f,      0x1p-149f, -0x1.8p-127f, 0x1p-126f, 0x1p-120f,    0x1.fffffep-121f, 1.0f,         -1.0f,
    0.5f,      2.5f,       3.5f,      -126.5f,      127.0f,    88.72284f,    -87.33655f,       -103.972f,    89.0f,
    -104.5f,   1e-7f,      65504.0f,  65519.996f,   65520.0f,  0x1.ffcp-15f, 0x1p-24f,         0x1p-25f,     0x1p25f};

bool same_or_both_nan(float a, float b) { return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }

bool is_nan_half(uint16_t half) { return (half & 0x7FFF) > 0x7C00; }

}  // namespace

std::vector<float> floats(Random& random, size_t n, Kind kind) {
  std::vector<float> x(n);
  const int exponent = static_cast<int>(random.below(240)) - 130;
  for (float& value : x) {
    value = random.normal();
    switch (kind) {
      case Kind::Normal:
      case Kind::NotFinite: break;
      case Kind::Scaled: value = std::ldexp(value, exponent); break;
      case Kind::Largest: value = value < 0 ? -3.0f : 3.0f; break;
      case Kind::Special: value = kSpecial[random.below(std::size(kSpecial))]; break;
    }
  }
  if (kind == Kind::NotFinite && n > 0) {
    constexpr uint32_t bits[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345};
    x[random.below(n)] = float_of(bits[random.below(4)]);
  }
  return x;
}

void Comparison::same(const std::vector<float>& actual, const std::vector<float>& expected) const {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (same_or_both_nan(actual[i], expected[i])) continue;
    uint32_t a, b;
    std::memcpy(&a, &actual[i], 4);
    std::memcpy(&b, &expected[i], 4);
    return report(i, a, b);
  }
}

void Comparison::same_halves(const std::vector<uint8_t>& actual, const std::vector<uint8_t>& expected) const {
  for (size_t i = 0; i + 1 < expected.size(); i += 2) {
    uint16_t a, b;
    std::memcpy(&a, &actual[i], 2);
    std::memcpy(&b, &expected[i], 2);
    if (a != b && !(is_nan_half(a) && is_nan_half(b))) return report(i / 2, a, b);
  }
}

void Comparison::report(size_t index, uint32_t actual, uint32_t expected) const {
  std::fprintf(stderr, "%s: %s: element %zu is %08x, scalar has %08x\n", table_.name, what_.c_str(), index, actual,
               expected);
  ++failed_checks;
}

const KernelTable& scalar() { return stepahead::find_table("scalar"); }

const std::vector<const KernelTable*>& vector_tables() {
  static const std::vector<const KernelTable*> tables = [] {
    auto all = stepahead::available_tables();
    all.pop_back();
    return all;
  }();
  return tables;
}

}  // namespace kernel_tests
