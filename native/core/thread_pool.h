// One pool of threads a backend. Work is a range of outputs cut into one contiguous part a thread, always at the same
// places, so that which thread computes what never depends on timing. Between ops the workers spin a bounded time
// (a wake-up costs more than many ops), then park.
#pragma once

#include <atomic>
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

  // task(begin, end), or task(begin, end, index of the part) for those with scratch memory, on num_threads() parts of
  // [0, count); returns when all are done. The task must not throw.
  template <class Task>
  void run(size_t count, const Task& task) noexcept {
    constexpr Function function = [](const void* context, size_t begin, size_t end, size_t index) noexcept {
      const Task& task = *static_cast<const Task*>(context);
      if constexpr (std::is_nothrow_invocable_v<const Task&, size_t, size_t>) {
        (void)index;
        task(begin, end);
      } else {
        static_assert(std::is_nothrow_invocable_v<const Task&, size_t, size_t, size_t>,
                      "exceptions never cross threads");
        task(begin, end, index);
      }
    };
    if (count == 0) return;
    if (num_threads_ == 1 || count == 1) return function(&task, 0, count, 0);
    run_parts(count, function, &task);
  }

 private:
  using Function = void (*)(const void*, size_t, size_t, size_t) noexcept;

  void run_parts(size_t count, Function function, const void* context) noexcept;
  void work(int index) noexcept;
  void stop_and_join() noexcept;
  void run_part(int index) const noexcept;

  const int num_threads_;
  const int fork_generation_;
  std::mutex mutex_;  // one op at a time: several Python threads may share a backend
  // What the workers do in this generation; published by `generation_`.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  size_t count_ = 0;
  bool stop_ = false;
  alignas(64) std::atomic<unsigned> generation_{0};
  alignas(64) std::atomic<int> pending_{0};
  std::vector<std::thread> workers_;
};

}  // namespace stepahead
