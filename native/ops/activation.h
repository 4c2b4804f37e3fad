// Elementwise ops.
#pragma once

#include "core/context.h"

namespace stepahead {

void add(Context& context, const Buffer& x, const Buffer& y, Buffer& out);
void exp(Context& context, const Buffer& x, Buffer& out);
void swiglu(Context& context, const Buffer& gate, const Buffer& up, float limit, Buffer& out);
// (rows, heads * head_dim) times sigmoid of (rows, heads)
void head_gate(Context& context, const Buffer& x, const Buffer& gate, Buffer& out);
// target[rows[i]] += weights[i] * x[i]; rows are distinct
void add_scaled_rows(Context& context, Buffer& target, const int32_t* rows, const float* weights, const Buffer& x);

}  // namespace stepahead
