// What Python cannot see: memory and threads from below. Meant to run under the sanitizers.
#include "tests/check.h"

int main() {
  test_arena();
  test_thread_pool();
  std::printf(failed_checks == 0 ? "native tests passed\n" : "%d checks failed\n", failed_checks);
  return failed_checks == 0 ? 0 : 1;
}
