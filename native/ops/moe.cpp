#include "ops/moe.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

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

// Columns of the hidden layer that are computed as one piece, and columns that are quantised as one: whole blocks of
// every type.
constexpr size_t kSpan = 64;
constexpr size_t kChunk = 256;

constexpr size_t num_pieces(size_t n, size_t piece) { return (n + piece - 1) / piece; }

std::vector<ActivationRow> rows_of_pairs(const Activations& rows, const Groups& groups) {
  std::vector<ActivationRow> of_pairs;
  of_pairs.reserve(groups.rows.size());
  for (const size_t row : groups.rows) of_pairs.push_back(rows[row]);
  return of_pairs;
}

std::vector<float*> row_pointers(const Buffer& buffer) {
  std::vector<float*> rows(buffer.rows());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = buffer.row(i);
  return rows;
}

void multiply(const Context& context, const Matrix& matrix, const Groups::Group& group, size_t begin, size_t end,
              const ActivationRow* rows, float* const* y) noexcept {
  linear_kernel(context.kernels, matrix)(matrix.expert(group.expert), matrix.row_bytes, begin, end, matrix.num_in,
                                         rows, group.end - group.begin, y);
}

// swiglu(x @ gate.T, x @ up.T) for every pair, as the down matrix wants it.
class HiddenLayer {
 public:
  HiddenLayer(Context& context, const Groups& groups, const Matrix& gate, const Matrix& up, float limit,
              const Activations& gate_input, const Activations& up_input, size_t down_block)
      : context_(context),
        groups_(groups),
        gate_(gate),
        up_(up),
        limit_(limit),
        gate_rows_(rows_of_pairs(gate_input, groups)),
        up_rows_(rows_of_pairs(up_input, groups)),
        h_(context.arena, groups.rows.size(), gate.num_out),
        u_(context.arena, groups.rows.size(), gate.num_out),
        h_pointers_(row_pointers(h_)),
        u_pointers_(row_pointers(u_)),
        activations_(context, h_.data(), h_.rows(), h_.width(), down_block),
        spans_(num_pieces(gate.num_out, kSpan)),
        chunks_(num_pieces(gate.num_out, kChunk)),
        spans_done_(groups.groups.size() * chunks_) {}

  // Unit by unit: an expert and a span of its columns, for all rows that chose it, so that the bytes of a span of
  // weights lie side by side and are read once.
  void compute() noexcept {
    const size_t work = product_work(gate_, h_.rows()) + product_work(up_, h_.rows());
    context_.run(groups_.groups.size() * spans_, work, [this](size_t begin, size_t end) noexcept {
      for (size_t unit = begin; unit < end; ++unit) multiply_span(unit / spans_, unit % spans_);
    });
  }

  const ActivationRow* rows() const noexcept { return activations_.rows(); }

 private:
  void multiply_span(size_t index, size_t span) noexcept {
    const Groups::Group& group = groups_.groups[index];
    const size_t begin = span * kSpan, end = std::min(begin + kSpan, gate_.num_out);
    multiply(context_, gate_, group, begin, end, gate_rows_.data() + group.begin, h_pointers_.data() + group.begin);
    multiply(context_, up_, group, begin, end, up_rows_.data() + group.begin, u_pointers_.data() + group.begin);
    // Whoever finishes the last span of a chunk has all of its columns, his own and, through the counter, the others'.
    const size_t chunk = begin / kChunk, from = chunk * kChunk, to = std::min(from + kChunk, gate_.num_out);
    const unsigned before = spans_done_[index * chunks_ + chunk].fetch_add(1, std::memory_order_acq_rel);
    if (before + 1 == num_pieces(to - from, kSpan)) activate(group, from, to);
  }

  void activate(const Groups::Group& group, size_t begin, size_t end) noexcept {
    for (size_t i = group.begin; i < group.end; ++i) {
      float* h = h_.row(i) + begin;
      context_.kernels.swiglu(h, u_.row(i) + begin, end - begin, limit_, h);
      activations_.quantize(context_.kernels, i, begin, end);
    }
  }

  Context& context_;
  const Groups& groups_;
  const Matrix &gate_, &up_;
  const float limit_;
  const std::vector<ActivationRow> gate_rows_, up_rows_;
  const Buffer h_, u_;
  const std::vector<float*> h_pointers_, u_pointers_;
  const Activations activations_;
  const size_t spans_, chunks_;
  std::vector<std::atomic<unsigned>> spans_done_;  // of each chunk of each group
};

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
  if (out.rows == 0) return;
  std::memset(taken.data(), 0, experts);
  context.experts.add_layer(out.ids.data(), out.rows, out.top_k, taken.data());
}

// Two barriers: the hidden layer, then the outputs. There every thread owns a range of columns, for all experts, and adds
// up a row's experts in ascending order without waiting for others.
void moe_ffn(Context& context, const Buffer& x, const Routing& routing, const Matrix& gate, const Matrix& up,
             const Matrix& down, float limit, Buffer& out) {
  const Groups groups(routing);
  InputRows input(context, x);
  HiddenLayer hidden(context, groups, gate, up, limit, input.get(gate.type), input.get(up.type),
                     info(down.type).activation_block);
  hidden.compute();
  const Buffer part(context.arena, groups.largest, down.num_out);
  const std::vector<float*> part_rows = row_pointers(part);
  const size_t tiles = num_pieces(down.num_out, kTileRows);
  context.run(tiles, product_work(down, groups.rows.size()), [&](size_t begin_tile, size_t end_tile) noexcept {
    const size_t begin = begin_tile * kTileRows, end = std::min(end_tile * kTileRows, down.num_out);
    for (size_t r = 0; r < out.rows(); ++r) std::memset(out.row(r) + begin, 0, (end - begin) * sizeof(float));
    for (const auto& group : groups.groups) {
      multiply(context, down, group, begin, end, hidden.rows() + group.begin, part_rows.data());
      for (size_t i = group.begin; i < group.end; ++i) {
        context.kernels.add_scaled(part_rows[i - group.begin] + begin, groups.weights[i], end - begin,
                                   out.row(groups.rows[i]) + begin);
      }
    }
  });
}

}  // namespace stepahead
