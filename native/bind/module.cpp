#include <cstdlib>

#include "bind/bind.h"
#include "core/file_guard.h"

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
  m.def("guard_file", [](const Array1<uint8_t>& data, const nb::bytes& line) {
    return guard_file(data.data(), data.size(), {line.c_str(), line.size()});
  }, "If reading data faults, write line to stderr and leave with exit code 1. For unguard_file; -1: not guarded.");
  m.def("unguard_file", &unguard_file);
  bind_encode(m);
  bind_handles(m);
}

}  // namespace stepahead
