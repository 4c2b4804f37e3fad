// Numbers to the blocks of a tensor type.
#include <nanobind/stl/optional.h>

#include <cmath>

#include "bind/bind.h"
#include "encode/encode.h"

namespace stepahead {
namespace {

void check_importance(const Array1<float>& importance, size_t width) {
  check(importance.size() == width, "encode: ", importance.size(), " importances for rows of ", width);
  for (size_t i = 0; i < width; ++i) {
    const float weight = importance.data()[i];
    check(weight >= 0 && std::isfinite(weight), "encode: an importance of ", weight, " at ", i);
  }
}

nb::tuple py_encode(int ggml_id, const Array2<float>& values, const std::optional<Array1<float>>& importance,
                    int num_threads, const std::string& isa) {
  const Encoder& encoder = find_encoder(ggml_id, isa);
  const size_t rows = values.shape(0), width = values.shape(1);
  check(width > 0 && width % encoder.block_size == 0, "encode: rows of ", width, " are not whole blocks of ",
        encoder.block_size);
  check(num_threads >= 1 && num_threads <= 1024, "encode: ", num_threads, " threads; 1 to 1024 are possible");
  if (importance) check_importance(*importance, width);
  const size_t row_bytes = width / encoder.block_size * encoder.block_bytes;
  uint8_t* out = new uint8_t[rows * row_bytes + 1];
  nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
  size_t beyond;
  {
    const OpScope scope;
    beyond = encode_rows(encoder, {values.data(), importance ? importance->data() : nullptr, rows, width}, num_threads,
                         out);
  }
  return nb::make_tuple(nb::ndarray<nb::numpy, uint8_t>(out, {rows, row_bytes}, owner),
                        beyond == SIZE_MAX ? int64_t{-1} : static_cast<int64_t>(beyond));
}

}  // namespace

void bind_encode(nb::module_& m) {
  m.attr("ENCODED_TYPES") = [] {
    nb::list ids;
    for (const Encoder& encoder : portable_encoders.encoders) ids.append(encoder.ggml_id);
    return nb::tuple(ids);
  }();
  m.def("available_encoders", [] {
    std::vector<std::string> names;
    for (const EncodeTable* table : available_encoders()) names.emplace_back(table->name);
    return names;
  }, "Instruction sets whose encoders this build has and this machine can run, best first.");
  m.def("encode", &py_encode, nb::arg("ggml_id"), nb::arg("values").noconvert(),
        nb::arg("importance").noconvert().none(), nb::arg("num_threads"), nb::arg("isa") = "",
        "The bytes, and the flat index of the first value that the type cannot hold, or -1.");
}

}  // namespace stepahead
