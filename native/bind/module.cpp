#include <cstdlib>

#include "bind/bind.h"

namespace stepahead {

NB_MODULE(_native, m) {
  m.doc() = "CPU kernels of stepahead; stepahead.backends.cpu is the way in.";
  // A model kept in a global of the user's program is alive when Python ends: no leak to report.
  nb::set_leak_warnings(false);
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const Error& e) {
      PyErr_SetString(nb::module_::import_("stepahead.errors").attr("BackendError").ptr(), e.what());
    }
  });
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const KernelTable* table : available_tables()) names.emplace_back(table->name);
    return names;
  }, "Instruction sets that this build has and this machine can run, best first.");
  m.attr("NATIVE_TYPES") = [] {
    nb::list ids;
    for (const TypeInfo& type : kTypeInfo) ids.append(type.ggml_id);
    return nb::tuple(ids);
  }();
  bind_handles(m);
}

}  // namespace stepahead
