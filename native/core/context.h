// What every op needs: a kernel table, threads and memory. One a backend instance; no globals.
#pragma once

#include <memory>
#include <string>

#include "core/arena.h"
#include "core/expert_count.h"
#include "core/thread_pool.h"
#include "isa/dispatch.h"

namespace stepahead {

struct Context {
  Context(int num_threads, const std::string& isa)
      : kernels(find_table(isa)), pool(num_threads), arena(std::make_shared<Arena>()) {}

  const KernelTable& kernels;
  ThreadPool pool;
  std::shared_ptr<Arena> arena;
  ExpertCount experts;  // of the pass that runs

  // Additions of an elementwise op that take some 25 microseconds: below it, waiting for another thread (at once if it
  // spins, several times this if the system runs something else there) may cost more than it helps.
  static constexpr size_t kWorthThreads = size_t{1} << 18;

  // A task as ThreadPool::run takes it, on the pool if `work` in all (in additions) is worth it, else right here.
  template <class Task>
  void run(size_t count, size_t work, const Task& task) noexcept {
    if (work >= kWorthThreads) {
      pool.run(count, task);
    } else {
      pool.run_alone(count, task);
    }
  }

  // The same over the n elements of an elementwise op, `cost` additions each, in parts of whole cache lines.
  template <class Task>
  void for_elements(size_t n, size_t cost, const Task& task) noexcept {
    constexpr size_t grain = 1024;
    run((n + grain - 1) / grain, n * cost, [&](size_t begin, size_t end) noexcept {
      task(begin * grain, end * grain < n ? end * grain : n);
    });
  }
};

}  // namespace stepahead
