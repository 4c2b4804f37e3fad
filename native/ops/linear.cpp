#include "ops/linear.h"

#include <algorithm>

namespace stepahead {
namespace {

// One matrix of a pass: tiles [first_tile, end_tile) of the pass are its output rows.
struct Product {
  const Matrix& matrix;
  const ActivationRow* rows;
  float* const* y;
  size_t first_tile, end_tile;

  void run(const KernelTable& kernels, size_t begin_tile, size_t stop_tile, size_t num_rows) const noexcept {
    const size_t begin = (begin_tile - first_tile) * kTileRows;
    const size_t end = std::min((stop_tile - first_tile) * kTileRows, matrix.num_out);
    linear_kernel(kernels, matrix)(matrix.data, matrix.row_bytes, begin, end, matrix.num_in, rows, num_rows, y);
  }
};

size_t num_tiles(const Matrix& matrix) { return (matrix.num_out + kTileRows - 1) / kTileRows; }

void multiply(Context& context, const std::vector<Product>& products, size_t num_rows) {
  size_t work = 0;
  for (const Product& product : products) work += product_work(product.matrix, num_rows);
  context.run(products.empty() ? 0 : products.back().end_tile, work, [&](size_t begin, size_t end) noexcept {
    for (const Product& product : products) {
      const size_t from = std::max(begin, product.first_tile), to = std::min(end, product.end_tile);
      if (from < to) product.run(context.kernels, from, to, num_rows);
    }
  });
}

}  // namespace

Activations::Activations(Context& context, const float* x, size_t num_rows, size_t width, size_t block)
    : x_(x),
      width_(width),
      block_(block),
      q_(*context.arena, block ? num_rows * width : 0),
      d_(*context.arena, block ? num_rows * (width / block) : 0),
      sums_(*context.arena, block ? num_rows * (width / 16) : 0),
      rows_(num_rows) {
  for (size_t r = 0; r < num_rows; ++r) {
    rows_[r].x = x + r * width;
    if (block == 0) continue;
    rows_[r].q = q_.data() + r * width;
    rows_[r].d = d_.data() + r * (width / block);
    rows_[r].sums = sums_.data() + r * (width / 16);
  }
}

void Activations::quantize(const KernelTable& kernels, size_t row, size_t begin, size_t end) const noexcept {
  if (block_ == 0) return;
  const size_t at = row * width_ + begin;
  kernels.quantize_row(x_ + at, end - begin, block_, q_.data() + at, d_.data() + at / block_, sums_.data() + at / 16);
}

void Activations::quantize_all(Context& context) const noexcept {
  if (block_ == 0) return;
  context.run(rows_.size(), 3 * rows_.size() * width_, [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) quantize(context.kernels, r, 0, width_);
  });
}

const Activations& InputRows::get(WeightType type) {
  const size_t block = info(type).activation_block;
  for (const Activations& rows : by_block_) {
    if (rows.block() == block) return rows;
  }
  by_block_.emplace_back(context_, x_.data(), x_.rows(), x_.width(), block).quantize_all(context_);
  return by_block_.back();
}

void linear(Context& context, const Buffer& x, const std::vector<Matrix>& matrices, const std::vector<Buffer*>& y) {
  InputRows input(context, x);
  std::vector<float*> out(matrices.size() * x.rows());
  std::vector<Product> products;
  products.reserve(matrices.size());
  size_t tile = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    float** const rows = out.data() + i * x.rows();
    for (size_t r = 0; r < x.rows(); ++r) rows[r] = y[i]->row(r);
    const size_t end_tile = tile + num_tiles(matrices[i]);
    products.push_back({matrices[i], input.get(matrices[i].type).rows(), rows, tile, end_tile});
    tile = end_tile;
  }
  multiply(context, products, x.rows());
}

void linear_into(Context& context, const Buffer& x, const Matrix& matrix, Buffer& y, size_t column) {
  InputRows input(context, x);
  std::vector<float*> out(x.rows());
  for (size_t r = 0; r < x.rows(); ++r) out[r] = y.row(r) + column;
  multiply(context, {{matrix, input.get(matrix.type).rows(), out.data(), 0, num_tiles(matrix)}}, x.rows());
}

}  // namespace stepahead
