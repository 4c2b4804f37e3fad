// What the kernel tests share: numbers from a fixed seed, hostile ones among them, and the comparison with scalar.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "isa/dispatch.h"

namespace kernel_tests {

using stepahead::KernelTable;

// splitmix64: the same numbers on every machine
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  size_t below(size_t limit) { return next() % limit; }
  // About normal: a sum of four uniform numbers
  float normal() {
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(next() >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7f;
  }

 private:
  uint64_t state_;
};

// Rows of floats, each kind hostile in its own way; only the last has Inf and NaN, which would hide the others.
enum class Kind { Normal, Scaled, Largest, Special, NotFinite };
inline constexpr size_t kNumKinds = 5;

std::vector<float> floats(Random& random, size_t n, Kind kind);

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Compares what a table computed with what scalar did, bit for bit, NaN payloads apart. Counts and prints.
class Comparison {
 public:
  Comparison(const KernelTable& table, std::string what) : table_(table), what_(std::move(what)) {}

  void same(const std::vector<float>& actual, const std::vector<float>& expected) const;
  template <class T>
  void same(const std::vector<T>& actual, const std::vector<T>& expected) const {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (actual[i] == expected[i]) continue;
      return report(i, static_cast<uint32_t>(actual[i]), static_cast<uint32_t>(expected[i]));
    }
  }
  void same_halves(const std::vector<uint8_t>& actual, const std::vector<uint8_t>& expected) const;

 private:
  void report(size_t index, uint32_t actual, uint32_t expected) const;

  const KernelTable& table_;
  std::string what_;
};

// What no kernel may have written.
inline constexpr float kUntouched = 0x1.abcdep-77f;

// Every table but scalar.
const std::vector<const KernelTable*>& vector_tables();
const KernelTable& scalar();

void test_linear();
void test_rows();
void test_attention();
void test_encoders();

}  // namespace kernel_tests
