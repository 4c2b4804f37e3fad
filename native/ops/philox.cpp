#include "ops/philox.h"

namespace stepahead {
namespace {

struct Block {
  uint32_t words[4];
};

Block philox4x32(Block counter, uint64_t key) noexcept {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  auto& c = counter.words;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)}};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

}  // namespace

void token_words(uint64_t seed, uint64_t position, const int64_t* ids, size_t n, uint32_t* words) noexcept {
  const uint32_t low = static_cast<uint32_t>(position), high = static_cast<uint32_t>(position >> 32);
  Block block{};
  for (size_t i = 0; i < n; ++i) {
    const auto number = static_cast<uint32_t>(ids[i] >> 2);
    if (i == 0 || ids[i] >> 2 != ids[i - 1] >> 2) block = philox4x32({{number, low, high, 0}}, seed);
    words[i] = block.words[ids[i] & 3];
  }
}

}  // namespace stepahead
