// One pool of threads a backend. Work is a range of outputs, cut into one share a thread and each share into grains.
// A thread computes the grains of its own share in order (its weights stream from memory, and the next step gives it
// the same ones), then takes what is left of the others'. The work is done when all grains are: a thread that sleeps,
// or that the system keeps from its core, holds up nobody unless it has begun a grain; one that did so stays away for a
// while. Which thread computes what depends on timing; no output does, since each is computed within one grain, in one
// order.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace stepahead {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // the caller of run() is one of them; throws Error
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int num_threads() const noexcept { return num_threads_; }
  // How many of them work: 1 to num_threads(). The others sleep.
  int active_threads() const noexcept { return active_.load(std::memory_order_relaxed); }
  void set_active_threads(int active) noexcept;

  // task(begin, end), or task(begin, end, thread) for those with scratch memory a thread, until all of [0, count) is
  // done. One thread is given several ranges, one after the other. The task must not throw.
  template <class Task>
  void run(size_t count, const Task& task) noexcept {
    if (count <= 1 || active_threads() == 1) return run_alone(count, task);
    run_shared(count, call<Task>, &task);
  }

  // The same without the other threads.
  template <class Task>
  static void run_alone(size_t count, const Task& task) noexcept {
    if (count != 0) call<Task>(&task, 0, count, 0);
  }

 private:
  using Function = void (*)(const void*, size_t, size_t, size_t) noexcept;

  template <class Task>
  static void call(const void* context, size_t begin, size_t end, size_t thread) noexcept {
    const Task& task = *static_cast<const Task*>(context);
    if constexpr (std::is_nothrow_invocable_v<const Task&, size_t, size_t>) {
      (void)thread;
      task(begin, end);
    } else {
      static_assert(std::is_nothrow_invocable_v<const Task&, size_t, size_t, size_t>, "exceptions never cross threads");
      task(begin, end, thread);
    }
  }

  struct Job {
    Function function = nullptr;
    const void* context = nullptr;
    size_t count = 0, num_shares = 1, grain = 1;

    size_t share_begin(size_t share) const noexcept;
    size_t num_grains(size_t share) const noexcept;
    void run(size_t share, size_t grains_left, size_t thread) const noexcept;
  };
  struct alignas(64) Share {
    std::atomic<unsigned> grains_left{0};
  };

  void run_shared(size_t count, Function function, const void* context) noexcept;
  std::chrono::nanoseconds help(size_t thread) noexcept;
  void work(int thread) noexcept;
  void stop_and_join() noexcept;

  const int num_threads_;
  const int fork_generation_;
  std::mutex mutex_;  // one op at a time: several Python threads may share a backend
  // Written while no grain is left or running, read by those who hold a grain: never at the same time.
  Job job_;
  const std::unique_ptr<Share[]> shares_;
  std::atomic<bool> stop_{false};
  std::atomic<int> active_;
  alignas(64) std::atomic<unsigned> generation_{0};        // counts the jobs; workers sleep on it
  alignas(64) std::atomic<unsigned> grains_to_finish_{0};  // the caller sleeps on it
  // While the caller sleeps: when its patience ends.
  std::atomic<std::chrono::steady_clock::time_point> undue_after_{std::chrono::steady_clock::time_point::max()};
  std::vector<std::thread> workers_;
};

}  // namespace stepahead
