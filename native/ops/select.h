// Ops that move rows, and argmax.
#pragma once

#include "ops/linear.h"

namespace stepahead {

void embed(Context& context, const Matrix& table, const int32_t* ids, Buffer& out);
void concat(Context& context, const Buffer& x, const Buffer& y, Buffer& out);
void gather_rows(Context& context, const Buffer& x, const int32_t* rows, Buffer& out);
// Rows source_row .. of `source` become rows target_row .. of `target`, another buffer.
void copy_rows(Context& context, Buffer& target, size_t target_row, const Buffer& source, size_t source_row,
               size_t num_rows);
// The lowest index of the greatest; NaN never wins, a row of nothing else gives 0.
void argmax(Context& context, const Buffer& x, int32_t* out);

}  // namespace stepahead
