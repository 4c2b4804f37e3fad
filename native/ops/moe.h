// Routing to experts, and the experts' feed-forward.
#pragma once

#include <vector>

#include "ops/linear.h"

namespace stepahead {

// For each row top_k expert ids, ascending, and their weights: (rows, top_k).
struct Routing {
  Routing(size_t rows, size_t top_k, size_t num_experts)
      : rows(rows), top_k(top_k), num_experts(num_experts), ids(rows * top_k), weights(rows * top_k) {}

  const size_t rows, top_k, num_experts;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// bias may be null. Adds what it chose to context.experts.
void moe_route(Context& context, const Buffer& logits, const Buffer* bias, bool normalize, float scale, Routing& out);

void moe_ffn(Context& context, const Buffer& x, const Routing& routing, const Matrix& gate, const Matrix& up,
             const Matrix& down, float limit, Buffer& out);

}  // namespace stepahead
