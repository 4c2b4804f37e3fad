#include "isa/dispatch.h"

#include "core/error.h"

namespace stepahead {

std::vector<const KernelTable*> available_tables() {
  std::vector<const KernelTable*> tables;
#if defined(STEPAHEAD_HAVE_AVX2)
  // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    tables.push_back(&avx2_table);
  }
#endif
  tables.push_back(&scalar_table);
  return tables;
}

const KernelTable& find_table(const std::string& name) {
  std::string names;
  for (const KernelTable* table : available_tables()) {
    if (name == table->name) return *table;
    names += names.empty() ? table->name : std::string(", ") + table->name;
  }
  throw Error(join("this machine or build cannot run the instruction set ", name, "; it can run: ", names));
}

}  // namespace stepahead
