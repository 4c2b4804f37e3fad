// Matrices and their products with rows of activations.
#pragma once

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

// Rows as one family of weight types wants them: float32 as they are, or int8 in blocks of `block` elements.
class Activations {
 public:
  Activations(Context& context, const float* x, size_t num_rows, size_t width, size_t block);

  const ActivationRow* rows() const noexcept { return rows_.data(); }
  const ActivationRow& operator[](size_t r) const noexcept { return rows_[r]; }

 private:
  Scratch<int8_t> q_;
  Scratch<float> d_;
  Scratch<int16_t> sums_;
  std::vector<ActivationRow> rows_;
};

// y[i] = x @ matrices[i].T for every i, in one pass over the threads.
void linear(Context& context, const Buffer& x, const std::vector<Matrix>& matrices, const std::vector<Buffer*>& y);

// y[:, column : column + matrix.num_out] = x @ matrix.T
void linear_into(Context& context, const Buffer& x, const Matrix& matrix, Buffer& y, size_t column);

}  // namespace stepahead
