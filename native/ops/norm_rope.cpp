#include "ops/norm_rope.h"

#include <cstring>

namespace stepahead {

void rms_norm(Context& context, const Buffer& x, const Buffer& weight, float eps, Buffer& out) {
  context.run(x.rows(), 4 * x.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      context.kernels.rms_norm(x.row(r), weight.data(), x.width(), eps, out.row(r));
    }
  });
}

void qk_norm_rope(Context& context, const Buffer& x, const Buffer* weight, float eps, const Buffer& cos,
                  const Buffer& sin, size_t head_dim, Buffer& out) {
  const size_t heads = x.width() / head_dim;
  context.run(x.rows(), 4 * x.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t i = begin * heads; i < end * heads; ++i) {
      const float* in = x.data() + i * head_dim;
      float* head = out.data() + i * head_dim;
      if (weight != nullptr) {
        context.kernels.rms_norm(in, weight->data(), head_dim, eps, head);
      } else {
        std::memcpy(head, in, head_dim * sizeof(float));
      }
      context.kernels.rope(head, cos.row(i / heads), sin.row(i / heads), cos.width());
    }
  });
}

}  // namespace stepahead
