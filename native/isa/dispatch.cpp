#include "isa/dispatch.h"

#include "core/error.h"

#if defined(STEPAHEAD_HAVE_X86)
#include <cpuid.h>
#elif defined(STEPAHEAD_HAVE_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(STEPAHEAD_HAVE_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace stepahead {
namespace {

#if defined(STEPAHEAD_HAVE_X86)
// What __builtin_cpu_supports has no word for in Clang.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#elif defined(STEPAHEAD_HAVE_ARM64)
// Integer dot products: certain from ARMv8.4 on.
bool has_dotprod() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#else
  return false;
#endif
}
#endif

}  // namespace

std::vector<const KernelTable*> available_tables() {
  std::vector<const KernelTable*> tables;
#if defined(STEPAHEAD_HAVE_X86)
  // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx2 && avx512) tables.push_back(&avx512_table);
  if (avx2) tables.push_back(&avx2_table);
#elif defined(STEPAHEAD_HAVE_ARM64)
  if (has_dotprod()) tables.push_back(&neon_dotprod_table);
  tables.push_back(&neon_table);
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
