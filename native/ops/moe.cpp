#include "ops/moe.h"

#include <cmath>
#include <cstring>
#include <map>

namespace stepahead {
namespace {

constexpr float kMinimalSum = 6.103515625e-5f;

// p are the probabilities; keys and taken are scratch of the same size.
void route_row(const float* p, const float* bias, const Routing& routing, bool normalize, float scale, float* keys,
               bool* taken, int32_t* ids, float* weights) noexcept {
  for (size_t e = 0; e < routing.num_experts; ++e) {
    const float key = bias == nullptr ? p[e] : p[e] + bias[e];
    keys[e] = key == key ? key : -INFINITY;  // NaN ranks last
  }
  std::memset(taken, 0, routing.num_experts);
  for (size_t j = 0; j < routing.top_k; ++j) {
    size_t best = routing.num_experts;
    float best_key = 0.0f;
    for (size_t e = 0; e < routing.num_experts; ++e) {
      if (!taken[e] && (best == routing.num_experts || keys[e] > best_key)) best = e, best_key = keys[e];
    }
    taken[best] = true;
  }
  float sum = 0.0f;
  for (size_t e = 0, j = 0; e < routing.num_experts; ++e) {
    if (!taken[e]) continue;
    ids[j] = static_cast<int32_t>(e);
    weights[j++] = p[e];
    sum += p[e];
  }
  const float divisor = sum < kMinimalSum ? kMinimalSum : sum;  // NaN passes
  for (size_t j = 0; j < routing.top_k; ++j) {
    if (normalize) weights[j] /= divisor;
    if (scale != 0.0f) weights[j] *= scale;
  }
}

// The (row, expert) pairs of a pass, sorted by expert, then row.
struct Groups {
  struct Group {
    size_t expert, begin, end;  // pairs [begin, end)
  };
  std::vector<Group> groups;
  std::vector<size_t> rows;
  std::vector<float> weights;
  size_t largest = 0;

  explicit Groups(const Routing& routing) : rows(routing.ids.size()), weights(routing.ids.size()) {
    std::vector<size_t> at(routing.num_experts + 1);
    for (const int32_t id : routing.ids) ++at[static_cast<size_t>(id) + 1];
    for (size_t e = 0; e < routing.num_experts; ++e) {
      const size_t count = at[e + 1];
      at[e + 1] += at[e];
      if (count != 0) groups.push_back({e, at[e], at[e + 1]});
      if (count > largest) largest = count;
    }
    for (size_t i = 0; i < routing.ids.size(); ++i) {
      const size_t pair = at[static_cast<size_t>(routing.ids[i])]++;
      rows[pair] = i / routing.top_k;
      weights[pair] = routing.weights[i];
    }
  }
};

// The row of x for each pair, quantised once a block size.
class PairRows {
 public:
  PairRows(Context& context, const Buffer& x, const Groups& groups) : context_(context), x_(x), groups_(groups) {}

  const ActivationRow* get(WeightType type) {
    const size_t block = info(type).activation_block;
    const Activations& rows = rows_.try_emplace(block, context_, x_.data(), x_.rows(), x_.width(), block).first->second;
    std::vector<ActivationRow>& of_pairs = of_pairs_[block];
    if (of_pairs.empty()) {
      for (const size_t row : groups_.rows) of_pairs.push_back(rows[row]);
    }
    return of_pairs.data();
  }

 private:
  Context& context_;
  const Buffer& x_;
  const Groups& groups_;
  std::map<size_t, Activations> rows_;
  std::map<size_t, std::vector<ActivationRow>> of_pairs_;
};

std::vector<float*> pair_pointers(const Buffer& buffer, size_t count) {
  std::vector<float*> rows(count);
  for (size_t i = 0; i < count; ++i) rows[i] = buffer.row(i);
  return rows;
}

// fn(begin, end) over ranges of output rows, in whole tiles.
template <class Task>
void for_outputs(Context& context, size_t num_out, const Task& task) noexcept {
  context.pool.run((num_out + kTileRows - 1) / kTileRows, [&](size_t begin, size_t end) noexcept {
    const size_t stop = end * kTileRows < num_out ? end * kTileRows : num_out;
    task(begin * kTileRows, stop);
  });
}

void multiply(const Context& context, const Matrix& matrix, const Groups::Group& group, size_t begin, size_t end,
              const ActivationRow* rows, float* const* y) noexcept {
  linear_kernel(context.kernels, matrix)(matrix.expert(group.expert), matrix.row_bytes, begin, end, matrix.num_in,
                                         rows + group.begin, group.end - group.begin, y);
}

}  // namespace

void moe_route(Context& context, const Buffer& logits, const Buffer* bias, bool normalize, float scale, Routing& out) {
  const size_t experts = out.num_experts;
  const Scratch<float> p(*context.arena, logits.size());
  const Scratch<float> keys(*context.arena, logits.size());
  const Scratch<bool> taken(*context.arena, logits.size());
  context.run(logits.rows(), logits.size() * 10 * out.top_k, [&](size_t begin, size_t end) noexcept {
    for (size_t r = begin; r < end; ++r) {
      float* row = p.data() + r * experts;
      context.kernels.sigmoid(logits.row(r), experts, row);
      route_row(row, bias == nullptr ? nullptr : bias->data(), out, normalize, scale, keys.data() + r * experts,
                taken.data() + r * experts, out.ids.data() + r * out.top_k, out.weights.data() + r * out.top_k);
    }
  });
}

// Every thread owns a range of columns, for all experts: the parts are equal however rows and experts fall, and a
// thread adds up a row's experts in ascending order without waiting for others.
void moe_ffn(Context& context, const Buffer& x, const Routing& routing, const Matrix& gate, const Matrix& up,
             const Matrix& down, float limit, Buffer& out) {
  const Groups groups(routing);
  const size_t pairs = groups.rows.size();
  Buffer h(context.arena, pairs, gate.num_out);
  PairRows inputs(context, x, groups);
  {
    const Buffer u(context.arena, pairs, up.num_out);
    const std::vector<float*> h_rows = pair_pointers(h, pairs), u_rows = pair_pointers(u, pairs);
    const ActivationRow* gate_rows = inputs.get(gate.type);
    const ActivationRow* up_rows = inputs.get(up.type);
    for_outputs(context, gate.num_out, [&](size_t begin, size_t end) noexcept {
      for (const auto& group : groups.groups) {
        multiply(context, gate, group, begin, end, gate_rows, h_rows.data() + group.begin);
        multiply(context, up, group, begin, end, up_rows, u_rows.data() + group.begin);
        for (size_t i = group.begin; i < group.end; ++i) {
          context.kernels.swiglu(h_rows[i] + begin, u_rows[i] + begin, end - begin, limit, h_rows[i] + begin);
        }
      }
    });
  }
  const Activations hidden(context, h.data(), pairs, h.width(), info(down.type).activation_block);
  const Buffer part(context.arena, groups.largest, down.num_out);
  const std::vector<float*> part_rows = pair_pointers(part, groups.largest);
  for_outputs(context, down.num_out, [&](size_t begin, size_t end) noexcept {
    for (size_t r = 0; r < out.rows(); ++r) std::memset(out.row(r) + begin, 0, (end - begin) * sizeof(float));
    for (const auto& group : groups.groups) {
      multiply(context, down, group, begin, end, hidden.rows(), part_rows.data());
      for (size_t i = group.begin; i < group.end; ++i) {
        context.kernels.add_scaled(part_rows[i - group.begin] + begin, groups.weights[i], end - begin,
                                   out.row(groups.rows[i]) + begin);
      }
    }
  });
}

}  // namespace stepahead
