// Buffer, Matrix, KVBlocks, Routing and Context.
#include <algorithm>
#include <cstring>

#include "bind/bind.h"
#include "ops/interleave.h"

namespace stepahead {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using WritableBytes = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;

void check_interleaved(const TypeInfo& type, size_t num_out) {
  check(type.activation_block != 0, type.name, " weights have no interleaved kernel");
  check(num_out % kTileRows == 0, num_out, " rows are not whole panels of ", kTileRows);
}

PyMatrix new_matrix(const Bytes& data, int ggml_id, const std::vector<size_t>& shape, bool interleaved) {
  const TypeInfo* type = nullptr;
  for (const TypeInfo& candidate : kTypeInfo) type = candidate.ggml_id == ggml_id ? &candidate : type;
  check(type != nullptr, "tensor type ", ggml_id, " has no kernel of its own");
  check(shape.size() == 2 || shape.size() == 3, "a matrix has 2 or 3 dimensions, not ", shape.size());
  const size_t experts = shape.size() == 3 ? shape[0] : 1, out = shape[shape.size() - 2], in = shape.back();
  constexpr size_t most = size_t{1} << 31;
  check(experts > 0 && out > 0 && in > 0 && experts < most && out < most && in < most, "a matrix of ", experts, " x ",
        out, " x ", in, " has no sensible size");
  check(in % type->block_size == 0, "rows of ", in, " are not whole ", type->name, " blocks of ", type->block_size);
  const size_t row_bytes = in / type->block_size * type->block_bytes;
  check(experts <= data.nbytes() / row_bytes / out && experts * out * row_bytes == data.nbytes(), experts, " x ", out,
        " x ", in, " ", type->name, " weights are not ", data.nbytes(), " bytes");
  if (interleaved) check_interleaved(*type, out);
  const auto weight_type = static_cast<WeightType>(type - kTypeInfo);
  const Layout layout = interleaved ? Layout::Interleaved : Layout::Plain;
  return {{weight_type, layout, data.data(), experts, out, in, row_bytes}, nb::cast(data)};
}

void py_interleave(Context& context, const PyMatrix& handle, const WritableBytes& out) {
  const Matrix& m = handle.matrix;
  check(m.layout == Layout::Plain, "interleave: the matrix is interleaved already");
  check_interleaved(info(m.type), m.num_out);
  const size_t bytes = m.num_experts * m.num_out * m.row_bytes;
  check(out.nbytes() == bytes, "interleave: ", out.nbytes(), " bytes for a matrix of ", bytes);
  check(out.data() + bytes <= m.data || m.data + bytes <= out.data(), "interleave: source and result overlap");
  const nb::gil_scoped_release release;
  interleave(context, m, out.data());
}

// What another backend has chosen.
void init_routing(Routing* self, const Array2<int32_t>& ids, const Array2<float>& weights, size_t num_experts) {
  const size_t rows = ids.shape(0), top_k = ids.shape(1), count = rows * top_k;
  check(weights.shape(0) == rows && weights.shape(1) == top_k, "routing: ids of (", rows, ", ", top_k,
        ") and weights of (", weights.shape(0), ", ", weights.shape(1), ")");
  for (size_t i = 0; i < count; ++i) {
    const int32_t id = ids.data()[i];
    check(id >= 0 && static_cast<size_t>(id) < num_experts, "routing: ", id, " at ", i, " is not one of the ",
          num_experts, " experts");
    check(i % top_k == 0 || ids.data()[i - 1] < id, "routing: ", id, " at ", i, " does not ascend");
  }
  auto* made = new (self) Routing(rows, top_k, num_experts);
  std::copy_n(ids.data(), count, made->ids.begin());
  std::copy_n(weights.data(), count, made->weights.begin());
}

KVType kv_type(const std::string& name) {
  if (name == "f32") return KVType::F32;
  if (name == "f16") return KVType::F16;
  check(name == "q8_0", "unknown kv_type ", name, "; it is one of f16, f32, q8_0");
  return KVType::Q8_0;
}

template <class T>
nb::ndarray<nb::numpy, T> copy_2d(const std::vector<T>& values, size_t rows, size_t width) {
  T* copy = new T[values.size()];
  std::copy(values.begin(), values.end(), copy);
  nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(copy, {rows, width}, owner);
}

NewBuffer upload(Context& context, const Array2<float>& values) {
  NewBuffer out = new_buffer(context, values.shape(0), values.shape(1));
  std::memcpy(out->data(), values.data(), out->bytes());
  return out;
}

NewBuffer zeros(Context& context, size_t rows, size_t width) {
  NewBuffer out = new_buffer(context, rows, width);
  std::memset(out->data(), 0, out->bytes());
  return out;
}

void bind_context(nb::module_& m) {
  nb::class_<Context> context(m, "Context", "Kernel table, threads and memory of one backend.");
  context.def("__init__", [](Context* self, int threads, const std::string& isa) {
    check(threads >= 1 && threads <= 1024, "a pool of ", threads, " threads; it may have 1 to 1024");
    new (self) Context(threads, isa);
  }, nb::arg("threads"), nb::arg("isa"));
  context.def_prop_ro("threads", [](const Context& c) { return c.pool.num_threads(); });
  context.def_prop_rw("active_threads", [](const Context& c) { return c.pool.active_threads(); },
                      [](Context& c, int active) {
    check(active >= 1 && active <= c.pool.num_threads(), active, " threads of a pool of ", c.pool.num_threads());
    const nb::gil_scoped_release release;
    c.pool.set_active_threads(active);
  });
  context.def_prop_ro("isa", [](const Context& c) { return c.kernels.name; });
  context.def_prop_ro("bytes_in_use", [](const Context& c) { return c.arena->bytes_in_use(); });
  context.def_prop_ro("bytes_idle", [](const Context& c) { return c.arena->bytes_idle(); });
  context.def("fill_with_nan", [](Context& c, bool on) { c.arena->fill_with_nan(on); }, nb::arg("on"),
              "For tests: fresh memory is full of NaN.");
  context.def("begin_step", [](Context& c) { c.experts.reset(); });
  context.def("upload", &upload, nb::arg("values").noconvert());
  context.def("interleave", &py_interleave, nb::arg("matrix"), nb::arg("out").noconvert(),
              "The bytes of a plain matrix as panels of 16 rows, into an array of as many bytes.");
  context.def("zeros", &zeros, nb::arg("num_rows"), nb::arg("width"));
  bind_ops(context);
}

}  // namespace

void bind_handles(nb::module_& m) {
  nb::class_<Buffer>(m, "Buffer", "Activations, (num_rows, width) float32.")
      .def_prop_ro("shape", [](const Buffer& b) { return std::make_tuple(b.rows(), b.width()); })
      .def("numpy", [](nb::pointer_and_handle<Buffer> self) {
        return nb::ndarray<nb::numpy, float>(self.p->data(), {self.p->rows(), self.p->width()}, self.h);
      }, "The memory itself as an array; it lives as long as the array.");

  nb::class_<PyMatrix>(m, "Matrix", "Weights of a type that has kernels, in the caller's memory.")
      .def("__init__", [](PyMatrix* self, const Bytes& data, int ggml_id, const std::vector<size_t>& shape,
                          bool interleaved) {
        new (self) PyMatrix(new_matrix(data, ggml_id, shape, interleaved));
      }, nb::arg("data").noconvert(), nb::arg("ggml_id"), nb::arg("shape"), nb::arg("interleaved") = false);

  nb::class_<KVBlocks>(m, "KVBlocks", "Keys and values of one layer.")
      .def("__init__", [](KVBlocks* self, size_t blocks, size_t heads, size_t head_dim, const std::string& type) {
        constexpr size_t most = size_t{1} << 31;
        check(blocks > 0 && heads > 0 && head_dim > 0 && blocks < most && heads < most && head_dim < most,
              "a KV cache of ", blocks, " blocks, ", heads, " heads and head_dim ", head_dim, " has no sensible size");
        new (self) KVBlocks(kv_type(type), blocks, heads, head_dim);
      }, nb::arg("num_blocks"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("kv_type"))
      .def_ro("num_blocks", &KVBlocks::num_blocks)
      .def_prop_ro("nbytes", &KVBlocks::bytes)
      .def("numpy", [](nb::pointer_and_handle<KVBlocks> self) {
        return nb::ndarray<nb::numpy, uint8_t>(self.p->keys(), {self.p->bytes()}, self.h);
      }, "The memory itself: keys, then values, each (num_blocks, num_kv_heads, 64, head_dim) in the KV type.");

  nb::class_<Routing>(m, "Routing", "For each row top_k expert ids, ascending, and their weights.")
      .def("__init__", &init_routing, nb::arg("ids").noconvert(), nb::arg("weights").noconvert(), nb::arg("num_experts"))
      .def_prop_ro("shape", [](const Routing& r) { return std::make_tuple(r.rows, r.top_k); })
      .def("ids", [](const Routing& r) { return copy_2d(r.ids, r.rows, r.top_k); })
      .def("weights", [](const Routing& r) { return copy_2d(r.weights, r.rows, r.top_k); });

  bind_context(m);
}

}  // namespace stepahead
