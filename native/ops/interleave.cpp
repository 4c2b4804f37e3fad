#include "ops/interleave.h"

#include <cstring>

namespace stepahead {
namespace {

// Where dword c and the rest of block b of a row lie in its panel.
struct PanelPlace {
  const TypeInfo& type;
  size_t num_blocks, lane;

  size_t dword(size_t b, size_t c) const noexcept { return 4 * ((b * type.dwords() + c) * kTileRows + lane); }
  size_t rest(size_t b) const noexcept {
    return 4 * num_blocks * type.dwords() * kTileRows + (b * kTileRows + lane) * type.rest();
  }
};

void row_to_panel(const PanelPlace& place, const uint8_t* row, uint8_t* panel) noexcept {
  const TypeInfo& type = place.type;
  for (size_t b = 0; b < place.num_blocks; ++b, row += type.block_bytes) {
    for (size_t c = 0; c < type.dwords(); ++c) {
      std::memcpy(panel + place.dword(b, c), row + type.dwords_at() + 4 * c, 4);
    }
    std::memcpy(panel + place.rest(b), row + type.rest_at, type.rest());
  }
}

}  // namespace

void interleave(Context& context, const Matrix& plain, uint8_t* out) {
  const TypeInfo& type = info(plain.type);
  const size_t rows = plain.num_experts * plain.num_out;
  context.pool.run(rows / kTileRows, [&](size_t begin, size_t end) noexcept {
    for (size_t i = begin * kTileRows; i < end * kTileRows; ++i) {
      const PanelPlace place{type, plain.num_in / type.block_size, i % kTileRows};
      row_to_panel(place, plain.data + i * plain.row_bytes, out + i / kTileRows * kTileRows * plain.row_bytes);
    }
  });
}

void plain_row(const Matrix& interleaved, size_t row, uint8_t* out) noexcept {
  const TypeInfo& type = info(interleaved.type);
  const PanelPlace place{type, interleaved.num_in / type.block_size, row % kTileRows};
  const uint8_t* panel = interleaved.data + row / kTileRows * kTileRows * interleaved.row_bytes;
  for (size_t b = 0; b < place.num_blocks; ++b, out += type.block_bytes) {
    for (size_t c = 0; c < type.dwords(); ++c) {
      std::memcpy(out + type.dwords_at() + 4 * c, panel + place.dword(b, c), 4);
    }
    std::memcpy(out + type.rest_at, panel + place.rest(b), type.rest());
  }
}

}  // namespace stepahead
