// Matrices and their products with rows of activations.
#pragma once

#include <list>
#include <vector>

#include "core/context.h"

namespace stepahead {

// Weights in their file's type: (num_experts, num_out, num_in). Interleaved ones have num_out in whole panels.
struct Matrix {
  WeightType type;
  Layout layout;
  const uint8_t* data;
  size_t num_experts, num_out, num_in, row_bytes;

  const uint8_t* expert(size_t e) const noexcept { return data + e * num_out * row_bytes; }
};

inline LinearKernel linear_kernel(const KernelTable& kernels, const Matrix& matrix) noexcept {
  const auto type = static_cast<size_t>(matrix.type);
  return matrix.layout == Layout::Plain ? kernels.linear[type] : kernels.linear_interleaved[type];
}

// What a product with so many rows costs, in additions of an elementwise op.
inline size_t product_work(const Matrix& matrix, size_t num_rows) noexcept {
  constexpr size_t products_an_addition = 4;
  return num_rows * matrix.num_out * matrix.num_in / products_an_addition;
}

// Rows as one family of weight types wants them: float32 as they are (block 0), or int8 in blocks.
class Activations {
 public:
  Activations(Context& context, const float* x, size_t num_rows, size_t width, size_t block);

  // Fills elements [begin, end) of a row, whole blocks, from what x is by then.
  void quantize(const KernelTable& kernels, size_t row, size_t begin, size_t end) const noexcept;
  // Fills all, on the pool if that is worth it.
  void quantize_all(Context& context) const noexcept;

  size_t block() const noexcept { return block_; }
  const ActivationRow* rows() const noexcept { return rows_.data(); }
  const ActivationRow& operator[](size_t r) const noexcept { return rows_[r]; }

 private:
  const float* const x_;
  const size_t width_, block_;
  const Scratch<int8_t> q_;
  const Scratch<float> d_;
  const Scratch<int16_t> sums_;
  std::vector<ActivationRow> rows_;
};

// The rows of one buffer for matrices of several types: quantised once a block size.
class InputRows {
 public:
  InputRows(Context& context, const Buffer& x) : context_(context), x_(x) {}
  const Activations& get(WeightType type);

 private:
  Context& context_;
  const Buffer& x_;
  std::list<Activations> by_block_;
};

// y[i] = x @ matrices[i].T for every i, in one pass over the threads.
void linear(Context& context, const Buffer& x, const std::vector<Matrix>& matrices, const std::vector<Buffer*>& y);

// y[:, column : column + matrix.num_out] = x @ matrix.T
void linear_into(Context& context, const Buffer& x, const Matrix& matrix, Buffer& y, size_t column);

}  // namespace stepahead
