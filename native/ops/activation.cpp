#include "ops/activation.h"

namespace stepahead {

void add(Context& context, const Buffer& x, const Buffer& y, Buffer& out) {
  context.for_elements(x.size(), 1, [&](size_t begin, size_t end) noexcept {
    context.kernels.add(x.data() + begin, y.data() + begin, end - begin, out.data() + begin);
  });
}

void exp(Context& context, const Buffer& x, Buffer& out) {
  context.for_elements(x.size(), 5, [&](size_t begin, size_t end) noexcept {
    context.kernels.exp(x.data() + begin, end - begin, out.data() + begin);
  });
}

void swiglu(Context& context, const Buffer& gate, const Buffer& up, float limit, Buffer& out) {
  context.for_elements(gate.size(), 5, [&](size_t begin, size_t end) noexcept {
    context.kernels.swiglu(gate.data() + begin, up.data() + begin, end - begin, limit, out.data() + begin);
  });
}

void head_gate(Context& context, const Buffer& x, const Buffer& gate, Buffer& out) {
  const size_t heads = gate.width(), head_dim = x.width() / heads;
  context.run(x.rows(), 2 * x.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t i = begin * heads; i < end * heads; ++i) {
      float factor;
      context.kernels.sigmoid(gate.data() + i, 1, &factor);
      context.kernels.scale(x.data() + i * head_dim, factor, head_dim, out.data() + i * head_dim);
    }
  });
}

void add_scaled_rows(Context& context, Buffer& target, const int32_t* rows, const float* weights, const Buffer& x) {
  context.run(x.rows(), 2 * x.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t i = begin; i < end; ++i) {
      context.kernels.add_scaled(x.row(i), weights[i], x.width(), target.row(static_cast<size_t>(rows[i])));
    }
  });
}

}  // namespace stepahead
