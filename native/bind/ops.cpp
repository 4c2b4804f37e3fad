// The ops: check shapes, release the GIL, compute.
#include "bind/bind.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "ops/norm_rope.h"
#include "ops/philox.h"
#include "ops/select.h"

namespace stepahead {
namespace {

void check_same(const char* op, const Buffer& x, const Buffer& y) {
  check(x.rows() == y.rows() && x.width() == y.width(), op, ": shapes differ, ", shape(x), " and ", shape(y));
}

void check_rows(const char* op, const Buffer& x, size_t rows) {
  check(x.rows() == rows, op, ": ", x.rows(), " rows beside ", rows);
}

void check_vector(const char* op, const Buffer& weight, size_t width) {
  check(weight.rows() == 1 && weight.width() == width, op, ": weight ", shape(weight), " should be (1, ", width, ")");
}

void check_in(const char* op, const Buffer& x, const Matrix& m) {
  check(x.width() == m.num_in, op, ": x ", shape(x), " against a matrix of ", m.num_out, " x ", m.num_in);
}

// --- rows ---

NewBuffer py_embed(Context& context, const PyMatrix& table, const Ints& ids) {
  check(table.matrix.num_experts == 1, "embed: a table has two dimensions");
  check_ids("embed", ids, table.matrix.num_out, "rows of the table");
  NewBuffer out = new_buffer(context, ids.size(), table.matrix.num_in);
  const OpScope scope;
  embed(context, table.matrix, ids.data(), *out);
  return out;
}

NewBuffer py_rms_norm(Context& context, const Buffer& x, const Buffer& weight, float eps) {
  check_vector("rms_norm", weight, x.width());
  NewBuffer out = new_buffer(context, x.rows(), x.width());
  const OpScope scope;
  rms_norm(context, x, weight, eps, *out);
  return out;
}

NewBuffer py_add(Context& context, const Buffer& x, const Buffer& y) {
  check_same("add", x, y);
  NewBuffer out = new_buffer(context, x.rows(), x.width());
  const OpScope scope;
  add(context, x, y, *out);
  return out;
}

NewBuffer py_exp(Context& context, const Buffer& x) {
  NewBuffer out = new_buffer(context, x.rows(), x.width());
  const OpScope scope;
  exp(context, x, *out);
  return out;
}

NewBuffer py_concat(Context& context, const Buffer& x, const Buffer& y) {
  check_rows("concat", x, y.rows());
  NewBuffer out = new_buffer(context, x.rows(), x.width() + y.width());
  const OpScope scope;
  concat(context, x, y, *out);
  return out;
}

NewBuffer py_gather_rows(Context& context, const Buffer& x, const Ints& rows) {
  check_ids("gather_rows", rows, x.rows(), "rows");
  NewBuffer out = new_buffer(context, rows.size(), x.width());
  const OpScope scope;
  gather_rows(context, x, rows.data(), *out);
  return out;
}

void check_scatter(const char* op, const Buffer& target, const Ints& rows, const Buffer& x) {
  check(target.width() == x.width(), op, ": target ", shape(target), " is not as wide as x ", shape(x));
  check(&target != &x, op, ": target and x are the same tensor");
  check_rows(op, x, rows.size());
  check_ids(op, rows, target.rows(), "rows");
  // Two threads must never write one row.
  std::vector<bool> seen(target.rows());
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<size_t>(rows.data()[i]);
    check(!seen[row], op, ": row ", row, " is given twice");
    seen[row] = true;
  }
}

void check_span(const char* op, const char* name, const Buffer& x, size_t first, size_t num_rows) {
  check(first <= x.rows() && num_rows <= x.rows() - first, op, ": ", num_rows, " rows from ", first, " of ", name, " ",
        shape(x));
}

void py_copy_rows(Context& context, Buffer& target, size_t target_row, const Buffer& source, size_t source_row,
                  size_t num_rows) {
  const char* op = "copy_rows";
  check(target.width() == source.width(), op, ": target ", shape(target), " is not as wide as source ", shape(source));
  check(&target != &source, op, ": target and source are the same tensor");
  check_span(op, "target", target, target_row, num_rows);
  check_span(op, "source", source, source_row, num_rows);
  const OpScope scope;
  copy_rows(context, target, target_row, source, source_row, num_rows);
}

void py_add_scaled_rows(Context& context, Buffer& target, const Ints& rows, const Array1<float>& weights,
                        const Buffer& x) {
  check_scatter("add_scaled_rows", target, rows, x);
  check_rows("add_scaled_rows", x, weights.size());
  const OpScope scope;
  add_scaled_rows(context, target, rows.data(), weights.data(), x);
}

nb::ndarray<nb::numpy, int32_t> py_argmax(Context& context, const Buffer& x) {
  check(x.width() > 0, "argmax: rows of no elements");
  int32_t* out = new int32_t[x.rows() + 1];
  nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<int32_t*>(p); });
  {
    const OpScope scope;
    argmax(context, x, out);
  }
  return nb::ndarray<nb::numpy, int32_t>(out, {x.rows()}, owner);
}

// --- matrices ---

std::vector<NewBuffer> py_linear_many(Context& context, const Buffer& x, const std::vector<const PyMatrix*>& handles) {
  std::vector<Matrix> matrices;
  for (const PyMatrix* handle : handles) {
    check(handle != nullptr && handle->matrix.num_experts == 1, "linear: a matrix has two dimensions");
    check_in("linear", x, handle->matrix);
    matrices.push_back(handle->matrix);
  }
  std::vector<NewBuffer> out;
  std::vector<Buffer*> y;
  for (const Matrix& matrix : matrices) {
    out.push_back(new_buffer(context, x.rows(), matrix.num_out));
    y.push_back(out.back().get());
  }
  const OpScope scope;
  linear(context, x, matrices, y);
  return out;
}

NewBuffer py_linear(Context& context, const Buffer& x, const PyMatrix& matrix) {
  return std::move(py_linear_many(context, x, {&matrix})[0]);
}

void py_linear_into(Context& context, const Buffer& x, const PyMatrix& handle, Buffer& y, size_t column) {
  const Matrix& matrix = handle.matrix;
  check(matrix.num_experts == 1, "linear_into: a matrix has two dimensions");
  check_in("linear_into", x, matrix);
  check_rows("linear_into", y, x.rows());
  check(&x != &y && column <= y.width() && matrix.num_out <= y.width() - column, "linear_into: columns from ", column,
        " to ", column + matrix.num_out, " are not in y ", shape(y));
  const OpScope scope;
  linear_into(context, x, matrix, y, column);
}

// --- attention ---

NewBuffer py_qk_norm_rope(Context& context, const Buffer& x, const Buffer* weight, float eps, const Buffer& cos,
                        const Buffer& sin, size_t head_dim) {
  check(head_dim > 0 && x.width() % head_dim == 0, "qk_norm_rope: x ", shape(x), " is not whole heads of ", head_dim);
  if (weight != nullptr) check_vector("qk_norm_rope", *weight, head_dim);
  check_same("qk_norm_rope", cos, sin);
  check_rows("qk_norm_rope", x, cos.rows());
  check(2 * cos.width() <= head_dim, "qk_norm_rope: ", 2 * cos.width(), " rotated dims in a head of ", head_dim);
  NewBuffer out = new_buffer(context, x.rows(), x.width());
  const OpScope scope;
  qk_norm_rope(context, x, weight, eps, cos, sin, head_dim, *out);
  return out;
}

void py_kv_write(Context& context, KVBlocks& kv, const Buffer& k, const Buffer& v, const Ints& slots) {
  check_same("kv_write", k, v);
  check_rows("kv_write", k, slots.size());
  check(k.width() == kv.num_kv_heads * kv.head_dim, "kv_write: k ", shape(k), " is not ", kv.num_kv_heads, " heads of ",
        kv.head_dim);
  check_ids("kv_write", slots, kv.num_blocks * kBlockSize, "slots");
  const OpScope scope;
  kv_write(context, kv, k, v, slots.data());
}

void check_attention_rows(const KVBlocks& kv, const Buffer& q, const Ints& positions, const Ints& first_keys,
                          const Ints& sequences, const Array2<int32_t>& tables) {
  check_rows("attention", q, positions.size());
  check_rows("attention", q, first_keys.size());
  check_rows("attention", q, sequences.size());
  check_ids("attention", sequences, tables.shape(0), "rows of block_tables");
  const size_t max_blocks = tables.shape(1);
  for (size_t r = 0; r < positions.size(); ++r) {
    const int32_t first = first_keys.data()[r], last = positions.data()[r];
    check(0 <= first && first <= last, "attention: row ", r, " sees keys ", first, " to ", last);
    check(static_cast<size_t>(last) / kBlockSize < max_blocks, "attention: position ", last, " of row ", r,
          " is beyond ", max_blocks, " blocks");
    const int32_t* table = tables.data() + static_cast<size_t>(sequences.data()[r]) * max_blocks;
    for (size_t j = static_cast<size_t>(first) / kBlockSize; j <= static_cast<size_t>(last) / kBlockSize; ++j) {
      check(table[j] >= 0 && static_cast<size_t>(table[j]) < kv.num_blocks, "attention: row ", r, " needs block ",
            table[j], " of ", kv.num_blocks, " for positions from ", j * kBlockSize);
    }
  }
}

NewBuffer py_attention(Context& context, const Buffer& q, const KVBlocks& kv, const Ints& positions,
                     const Ints& first_keys, const Ints& sequences, const Array2<int32_t>& tables, float scale) {
  check(q.width() > 0 && q.width() % (kv.num_kv_heads * kv.head_dim) == 0, "attention: q ", shape(q),
        " is not a multiple of ", kv.num_kv_heads, " heads of ", kv.head_dim);
  check_attention_rows(kv, q, positions, first_keys, sequences, tables);
  const AttentionRows rows{q.rows(),          tables.shape(1),  positions.data(), first_keys.data(),
                           sequences.data(), tables.data()};
  NewBuffer out = new_buffer(context, q.rows(), q.width());
  const OpScope scope;
  attention(context, q, kv, rows, scale, *out);
  return out;
}

NewBuffer py_head_gate(Context& context, const Buffer& x, const Buffer& gate) {
  check_rows("head_gate", gate, x.rows());
  check(gate.width() > 0 && x.width() % gate.width() == 0, "head_gate: x ", shape(x), " is not whole heads for gate ",
        shape(gate));
  NewBuffer out = new_buffer(context, x.rows(), x.width());
  const OpScope scope;
  head_gate(context, x, gate, *out);
  return out;
}

// --- feed-forward ---

NewBuffer py_swiglu(Context& context, const Buffer& gate, const Buffer& up, float limit) {
  check_same("swiglu", gate, up);
  NewBuffer out = new_buffer(context, gate.rows(), gate.width());
  const OpScope scope;
  swiglu(context, gate, up, limit, *out);
  return out;
}

std::unique_ptr<Routing> py_moe_route(Context& context, const Buffer& logits, const Buffer* bias, size_t top_k,
                                      bool normalize, float scale) {
  if (bias != nullptr) check_vector("moe_route", *bias, logits.width());
  check(top_k > 0 && top_k <= logits.width(), "moe_route: top_k is ", top_k, " with ", logits.width(), " experts");
  auto out = std::make_unique<Routing>(logits.rows(), top_k, logits.width());
  const OpScope scope;
  moe_route(context, logits, bias, normalize, scale, *out);
  return out;
}

nb::tuple py_routed_experts(const Context& context) {
  nb::list growth;
  int32_t total = 0;
  for (size_t row = 0; row < context.experts.num_rows; ++row) growth.append(total += context.experts.added[row]);
  return nb::tuple(growth);
}

NewBuffer py_moe_ffn(Context& context, const Buffer& x, const Routing& routing, const PyMatrix& gate_handle,
                   const PyMatrix& up_handle, const PyMatrix& down_handle, float limit) {
  const Matrix &gate = gate_handle.matrix, &up = up_handle.matrix, &down = down_handle.matrix;
  check_rows("moe_ffn", x, routing.rows);
  check_in("moe_ffn", x, gate);
  check_in("moe_ffn", x, up);
  check(gate.num_out == up.num_out && down.num_in == gate.num_out, "moe_ffn: gate, up and down are ", gate.num_out,
        ", ", up.num_out, " and ", down.num_in, " wide");
  for (const Matrix* m : {&gate, &up, &down}) {
    check(m->num_experts == routing.num_experts, "moe_ffn: routing chose among ", routing.num_experts,
          " experts, a matrix has ", m->num_experts);
  }
  NewBuffer out = new_buffer(context, x.rows(), down.num_out);
  const OpScope scope;
  moe_ffn(context, x, routing, gate, up, down, limit, *out);
  return out;
}

// --- choice ---

nb::ndarray<nb::numpy, uint32_t> py_token_words(const Context&, uint64_t seed, uint64_t position,
                                                const Array1<int64_t>& ids) {
  uint32_t* words = new uint32_t[ids.size() + 1];
  nb::capsule owner(words, [](void* p) noexcept { delete[] static_cast<uint32_t*>(p); });
  token_words(seed, position, ids.data(), ids.size(), words);
  return nb::ndarray<nb::numpy, uint32_t>(words, {ids.size()}, owner);
}

}  // namespace

void bind_ops(nb::class_<Context>& context) {
  using nb::arg;
  context.def("embed", &py_embed, arg("table"), arg("ids").noconvert())
      .def("rms_norm", &py_rms_norm, arg("x"), arg("weight"), arg("eps"))
      .def("add", &py_add, arg("x"), arg("y"))
      .def("exp", &py_exp, arg("x"))
      .def("concat", &py_concat, arg("x"), arg("y"))
      .def("gather_rows", &py_gather_rows, arg("x"), arg("rows").noconvert())
      .def("copy_rows", &py_copy_rows, arg("target"), arg("target_row"), arg("source"), arg("source_row"),
           arg("num_rows"))
      .def("add_scaled_rows", &py_add_scaled_rows, arg("target"), arg("rows").noconvert(), arg("weights").noconvert(),
           arg("x"))
      .def("argmax", &py_argmax, arg("x"))
      .def("linear", &py_linear, arg("x"), arg("matrix"))
      .def("linear_many", &py_linear_many, arg("x"), arg("matrices"))
      .def("linear_into", &py_linear_into, arg("x"), arg("matrix"), arg("y"), arg("column"))
      .def("qk_norm_rope", &py_qk_norm_rope, arg("x"), arg("weight").none(), arg("eps"), arg("cos"), arg("sin"),
           arg("head_dim"))
      .def("kv_write", &py_kv_write, arg("kv"), arg("k"), arg("v"), arg("slots").noconvert())
      .def("attention", &py_attention, arg("q"), arg("kv"), arg("positions").noconvert(),
           arg("first_keys").noconvert(), arg("sequences").noconvert(), arg("block_tables").noconvert(), arg("scale"))
      .def("head_gate", &py_head_gate, arg("x"), arg("gate"))
      .def("swiglu", &py_swiglu, arg("gate"), arg("up"), arg("limit"))
      .def("moe_route", &py_moe_route, arg("logits"), arg("bias").none(), arg("top_k"), arg("normalize"), arg("scale"))
      .def("routed_experts", &py_routed_experts)
      .def("moe_ffn", &py_moe_ffn, arg("x"), arg("routing"), arg("gate"), arg("up"), arg("down"), arg("limit"))
      .def("token_words", &py_token_words, arg("seed"), arg("position"), arg("token_ids").noconvert());
}

}  // namespace stepahead
