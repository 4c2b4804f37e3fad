// The kernels of every table that this machine can run against scalar's, bit for bit, without Python: what runs under
// the sanitizers, and under an emulator for machines that are not here. Arguments are tables that must be among them.
#include <cstdio>

#include "core/error.h"
#include "core/float_env.h"
#include "tests/check.h"
#include "tests/kernels/cases.h"

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) stepahead::find_table(argv[i]);
  } catch (const stepahead::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  const stepahead::FloatEnv env;
  kernel_tests::test_linear();
  kernel_tests::test_rows();
  kernel_tests::test_attention();
  kernel_tests::test_encoders();
  std::printf(failed_checks == 0 ? "kernels have the bits of scalar:" : "%d comparisons failed:", failed_checks);
  for (const auto* table : kernel_tests::vector_tables()) std::printf(" %s", table->name);
  std::printf("\n");
  return failed_checks == 0 ? 0 : 1;
}
