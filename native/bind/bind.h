// What the files of bind/ share. They are the only ones that know Python: they check every shape once, with a message
// that names value and limit, release the GIL, and call an op. What lies below trusts them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "core/error.h"
#include "core/float_env.h"
#include "ops/attention.h"
#include "ops/moe.h"

namespace nb = nanobind;

namespace stepahead {

template <class T>
using Array1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = Array1<int32_t>;

// Weights that Python can hold: what the kernels need, and what keeps the file mapped.
struct PyMatrix {
  Matrix matrix;
  nb::object owner;
};

// Around every op: other Python threads may run, and the floating-point mode is ours.
struct OpScope {
  nb::gil_scoped_release release;
  FloatEnv env;
};

inline std::string shape(const Buffer& x) { return join("(", x.rows(), ", ", x.width(), ")"); }

inline void check_ids(const char* op, const Ints& ids, size_t limit, const char* of) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids.data()[i];
    check(id >= 0 && static_cast<size_t>(id) < limit, op, ": ", id, " at ", i, " is not one of the ", limit, " ", of);
  }
}

using NewBuffer = std::unique_ptr<Buffer>;

inline NewBuffer new_buffer(Context& context, size_t rows, size_t width) {
  // Below 2^31 each, the bytes cannot overflow.
  check(rows >> 31 == 0 && width >> 31 == 0, "activations of ", rows, " x ", width, " are more than any memory");
  return std::make_unique<Buffer>(context.arena, rows, width);
}

void bind_encode(nb::module_& m);
void bind_handles(nb::module_& m);
void bind_ops(nb::class_<Context>& context);

}  // namespace stepahead
