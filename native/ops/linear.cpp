#include "ops/linear.h"

#include <map>

namespace stepahead {
namespace {

// Products of a matrix that cost as much as one addition of an elementwise op.
constexpr size_t kProductsAnAddition = 4;

std::vector<float*> row_pointers(const Buffer& y, size_t column) {
  std::vector<float*> rows(y.rows());
  for (size_t r = 0; r < rows.size(); ++r) rows[r] = y.row(r) + column;
  return rows;
}

size_t num_tiles(size_t num_out) { return (num_out + kTileRows - 1) / kTileRows; }

}  // namespace

Activations::Activations(Context& context, const float* x, size_t num_rows, size_t width, size_t block)
    : q_(*context.arena, block ? num_rows * width : 0),
      d_(*context.arena, block ? num_rows * (width / block) : 0),
      sums_(*context.arena, block ? num_rows * (width / 16) : 0),
      rows_(num_rows) {
  for (size_t r = 0; r < num_rows; ++r) {
    rows_[r].x = x + r * width;
    if (block) {
      rows_[r].q = q_.data() + r * width;
      rows_[r].d = d_.data() + r * (width / block);
      rows_[r].sums = sums_.data() + r * (width / 16);
    }
  }
  if (block == 0) return;
  context.run(num_rows, 3 * num_rows * width, [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      context.kernels.quantize_row(x + r * width, width, block, q_.data() + r * width, d_.data() + r * (width / block),
                                   sums_.data() + r * (width / 16));
    }
  });
}

void linear(Context& context, const Buffer& x, const std::vector<Matrix>& matrices, const std::vector<Buffer*>& y) {
  // One quantisation a block size, whatever the number of matrices.
  std::map<size_t, Activations> activations;
  std::vector<const ActivationRow*> rows;
  std::vector<std::vector<float*>> out;
  std::vector<size_t> first_tile = {0};
  for (size_t i = 0; i < matrices.size(); ++i) {
    const size_t block = info(matrices[i].type).activation_block;
    rows.push_back(activations.try_emplace(block, context, x.data(), x.rows(), x.width(), block).first->second.rows());
    out.push_back(row_pointers(*y[i], 0));
    first_tile.push_back(first_tile.back() + num_tiles(matrices[i].num_out));
  }
  size_t work = 0;
  for (const Matrix& m : matrices) work += x.rows() * m.num_out * m.num_in / kProductsAnAddition;
  context.run(first_tile.back(), work, [&](size_t begin, size_t end) noexcept {
    for (size_t i = 0; i < matrices.size(); ++i) {
      const size_t from = begin > first_tile[i] ? begin : first_tile[i];
      const size_t to = end < first_tile[i + 1] ? end : first_tile[i + 1];
      if (from >= to) continue;
      const Matrix& m = matrices[i];
      const size_t stop = (to - first_tile[i]) * kTileRows;
      linear_kernel(context.kernels, m)(
          m.data, m.row_bytes, (from - first_tile[i]) * kTileRows, stop < m.num_out ? stop : m.num_out, m.num_in,
          rows[i], x.rows(), out[i].data());
    }
  });
}

void linear_into(Context& context, const Buffer& x, const Matrix& matrix, Buffer& y, size_t column) {
  const Activations activations(context, x.data(), x.rows(), x.width(), info(matrix.type).activation_block);
  const std::vector<float*> out = row_pointers(y, column);
  const size_t work = x.rows() * matrix.num_out * matrix.num_in / kProductsAnAddition;
  context.run(num_tiles(matrix.num_out), work, [&](size_t begin, size_t end) noexcept {
    const size_t stop = end * kTileRows;
    linear_kernel(context.kernels, matrix)(
        matrix.data, matrix.row_bytes, begin * kTileRows, stop < matrix.num_out ? stop : matrix.num_out, matrix.num_in,
        activations.rows(), x.rows(), out.data());
  });
}

}  // namespace stepahead
