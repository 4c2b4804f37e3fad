// The native tests' one macro: a failed check names its place and counts.
#pragma once

#include <cstdio>

inline int failed_checks = 0;

#define CHECK(condition)                                                         \
  do {                                                                           \
    if (!(condition)) {                                                          \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      ++failed_checks;                                                           \
    }                                                                            \
  } while (false)

void test_arena();
void test_thread_pool();
