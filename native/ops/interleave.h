// Plain weights into panels: see Layout.
#pragma once

#include "ops/linear.h"

namespace stepahead {

// `plain` has num_out in whole panels and a type with int8 activations; out has room for as many bytes.
void interleave(Context& context, const Matrix& plain, uint8_t* out);

// Row `row` of an interleaved matrix (of its first expert, where there are some) as it was in the file.
void plain_row(const Matrix& interleaved, size_t row, uint8_t* out) noexcept;

}  // namespace stepahead
