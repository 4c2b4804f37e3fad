// RMSNorm, and the norm and rotation of query and key heads.
#pragma once

#include "core/context.h"

namespace stepahead {

void rms_norm(Context& context, const Buffer& x, const Buffer& weight, float eps, Buffer& out);

// weight may be null; cos and sin are (rows, num_rotated / 2)
void qk_norm_rope(Context& context, const Buffer& x, const Buffer* weight, float eps, const Buffer& cos,
                  const Buffer& sin, size_t head_dim, Buffer& out);

}  // namespace stepahead
