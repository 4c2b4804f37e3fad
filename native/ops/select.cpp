#include "ops/select.h"

#include <cstring>

#include "ops/interleave.h"

namespace stepahead {

void embed(Context& context, const Matrix& table, const int32_t* ids, Buffer& out) {
  const auto dequantize = context.kernels.dequantize[static_cast<size_t>(table.type)];
  const bool plain = table.layout == Layout::Plain;
  const Scratch<uint8_t> copies(*context.arena, plain ? 0 : out.rows() * table.row_bytes);
  context.run(out.rows(), 4 * out.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      const auto id = static_cast<size_t>(ids[r]);
      uint8_t* copy = copies.data() + r * table.row_bytes;
      if (!plain) plain_row(table, id, copy);
      dequantize(plain ? table.data + id * table.row_bytes : copy, table.num_in, out.row(r));
    }
  });
}

void concat(Context& context, const Buffer& x, const Buffer& y, Buffer& out) {
  context.run(out.rows(), out.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      std::memcpy(out.row(r), x.row(r), x.width() * sizeof(float));
      std::memcpy(out.row(r) + x.width(), y.row(r), y.width() * sizeof(float));
    }
  });
}

void gather_rows(Context& context, const Buffer& x, const int32_t* rows, Buffer& out) {
  context.run(out.rows(), out.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      std::memcpy(out.row(r), x.row(static_cast<size_t>(rows[r])), x.width() * sizeof(float));
    }
  });
}

void copy_rows(Context& context, Buffer& target, size_t target_row, const Buffer& source, size_t source_row,
               size_t num_rows) {
  const size_t width = source.width();
  context.run(num_rows, num_rows * width, [&](size_t begin, size_t end) noexcept {
    std::memcpy(target.row(target_row + begin), source.row(source_row + begin), (end - begin) * width * sizeof(float));
  });
}

void argmax(Context& context, const Buffer& x, int32_t* out) {
  context.run(x.rows(), 4 * x.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      const float* row = x.row(r);
      size_t best = 0;
      for (size_t i = 1; i < x.width(); ++i) {
        // A NaN in front is beaten by the first number.
        if (row[i] > row[best] || (row[best] != row[best] && row[i] == row[i])) best = i;
      }
      out[r] = static_cast<int32_t>(best);
    }
  });
}

}  // namespace stepahead
