#include "core/thread_pool.h"

#include <system_error>

#include "core/error.h"
#include "core/float_env.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace stepahead {
namespace {

// About 50 microseconds: longer than the gap between two ops of a pass, shorter than anybody notices.
constexpr int kSpins = 2000;

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class T, class Ready>
void spin_then_wait(const std::atomic<T>& value, const Ready& ready) noexcept {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (ready(value.load(std::memory_order_acquire))) return;
    pause();
  }
  for (T seen = value.load(std::memory_order_acquire); !ready(seen); seen = value.load(std::memory_order_acquire)) {
    value.wait(seen, std::memory_order_acquire);
  }
}

// A forked child has the pool but not its threads: it counts the forks, and pools of an older count work alone.
std::atomic<int> fork_count{0};

int current_fork() noexcept {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1, std::memory_order_relaxed); });
  (void)registered;
#endif
  return fork_count.load(std::memory_order_relaxed);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), fork_generation_(current_fork()) {
  workers_.reserve(static_cast<size_t>(num_threads));
  try {
    for (int index = 1; index < num_threads; ++index) workers_.emplace_back([this, index] { work(index); });
  } catch (const std::system_error&) {
    const size_t started = workers_.size() + 1;
    stop_and_join();
    throw Error(join("the system allows ", started, " threads, not ", num_threads, "; use fewer"));
  }
}

ThreadPool::~ThreadPool() {
  if (current_fork() != fork_generation_) {
    // The threads belong to the parent; joining or destroying their handles here would be wrong or fatal.
    new std::vector<std::thread>(std::move(workers_));
    return;
  }
  stop_and_join();
}

void ThreadPool::stop_and_join() noexcept {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_part(int index) const noexcept {
  const size_t threads = static_cast<size_t>(num_threads_), i = static_cast<size_t>(index);
  const size_t share = count_ / threads, rest = count_ % threads;
  const size_t begin = i * share + (i < rest ? i : rest);
  const size_t end = begin + share + (i < rest);
  if (begin < end) function_(context_, begin, end, i);
}

void ThreadPool::run_parts(size_t count, Function function, const void* context) noexcept {
  if (current_fork() != fork_generation_) return function(context, 0, count, 0);
  const std::lock_guard lock(mutex_);
  function_ = function;
  context_ = context;
  count_ = count;
  pending_.store(num_threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  run_part(0);
  spin_then_wait(pending_, [](int pending) { return pending == 0; });
}

void ThreadPool::work(int index) noexcept {
  const FloatEnv env;
  unsigned seen = 0;
  for (;;) {
    spin_then_wait(generation_, [seen](unsigned generation) { return generation != seen; });
    ++seen;
    if (stop_) return;
    run_part(index);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

}  // namespace stepahead
