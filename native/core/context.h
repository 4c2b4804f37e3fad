// What every op needs: a kernel table, threads and memory. One a backend instance; no globals.
#pragma once

#include <memory>
#include <string>

#include "core/arena.h"
#include "core/thread_pool.h"
#include "isa/dispatch.h"

namespace stepahead {

struct Context {
  Context(int num_threads, const std::string& isa)
      : kernels(find_table(isa)), pool(num_threads), arena(std::make_shared<Arena>()) {}

  const KernelTable& kernels;
  ThreadPool pool;
  std::shared_ptr<Arena> arena;

  // pool.run over n elements of an elementwise op, in parts worth waking a thread for.
  template <class Task>
  void for_elements(size_t n, const Task& task) noexcept {
    constexpr size_t grain = 4096;
    pool.run((n + grain - 1) / grain, [&](size_t begin, size_t end) noexcept {
      const size_t stop = end * grain < n ? end * grain : n;
      task(begin * grain, stop);
    });
  }
};

}  // namespace stepahead
