#include "core/thread_pool.h"

#include <algorithm>
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

using Clock = std::chrono::steady_clock;

// A worker looks for the next op for some 50 microseconds, longer than the gap between two ops of a pass, before it
// parks. After the first few it offers its core to others at every look: it has nothing to do.
constexpr int kWorkerSpins = 2000;
constexpr int kSpinsBeforeYield = 256;
// The caller waits some 10 microseconds, about a grain, before it sleeps. Whom it waits for may be waiting for its core.
constexpr int kCallerSpins = 400;

// A wait for one grain that takes longer than this, and longer than the whole op until then, is nobody's work: the
// system runs something else where the thread should run. It then stays away for a multiple of that time.
constexpr std::chrono::nanoseconds kPatience = std::chrono::microseconds(100);
constexpr int kTimesAway = 8;
constexpr std::chrono::nanoseconds kLongestAway = std::chrono::milliseconds(50);

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether it became ready within so many looks.
template <class T, class Ready>
bool spin(const std::atomic<T>& value, const Ready& ready, int spins, int spins_before_yield) noexcept {
  for (int i = 0; i < spins; ++i) {
    if (ready(value.load(std::memory_order_acquire))) return true;
    if (i < spins_before_yield || i % 32 != 0) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  return false;
}

template <class T, class Ready>
void wait(const std::atomic<T>& value, const Ready& ready) noexcept {
  for (T seen = value.load(std::memory_order_acquire); !ready(seen); seen = value.load(std::memory_order_acquire)) {
    value.wait(seen, std::memory_order_acquire);
  }
}

// Each share is cut into so many grains at most: what a thread that is late or slow leaves to the others comes in
// pieces of 1/8 of its share, and a piece is still far larger than the price of claiming it.
constexpr size_t kGrainsAShare = 8;

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

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(num_threads),
      fork_generation_(current_fork()),
      shares_(new Share[static_cast<size_t>(num_threads)]),
      active_(num_threads) {
  workers_.reserve(static_cast<size_t>(num_threads));
  try {
    for (int thread = 1; thread < num_threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
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
  stop_.store(true, std::memory_order_relaxed);
  set_active_threads(num_threads_);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::set_active_threads(int active) noexcept {
  const std::lock_guard lock(mutex_);
  active_.store(active, std::memory_order_release);
  active_.notify_all();
}

size_t ThreadPool::Job::share_begin(size_t share) const noexcept {
  return share * (count / num_shares) + std::min(share, count % num_shares);
}

size_t ThreadPool::Job::num_grains(size_t share) const noexcept {
  return (share_begin(share + 1) - share_begin(share) + grain - 1) / grain;
}

void ThreadPool::Job::run(size_t share, size_t grains_left, size_t thread) const noexcept {
  const size_t begin = share_begin(share) + (num_grains(share) - grains_left) * grain;
  function(context, begin, std::min(begin + grain, share_begin(share + 1)), thread);
}

void ThreadPool::run_shared(size_t count, Function function, const void* context) noexcept {
  if (current_fork() != fork_generation_) return function(context, 0, count, 0);
  const std::lock_guard lock(mutex_);
  const Clock::time_point start = Clock::now();
  const size_t num_shares = std::min(count, static_cast<size_t>(active_threads()));
  const size_t grains = num_shares * kGrainsAShare;
  job_ = {function, context, count, num_shares, (count + grains - 1) / grains};
  size_t to_finish = 0;
  for (size_t share = 0; share < num_shares; ++share) to_finish += job_.num_grains(share);
  grains_to_finish_.store(static_cast<unsigned>(to_finish), std::memory_order_relaxed);
  for (size_t share = 0; share < num_shares; ++share) {
    shares_[share].grains_left.store(static_cast<unsigned>(job_.num_grains(share)), std::memory_order_release);
  }
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  help(0);
  const auto finished = [](unsigned grains) { return grains == 0; };
  if (spin(grains_to_finish_, finished, kCallerSpins, kCallerSpins)) return;
  const Clock::time_point now = Clock::now();
  undue_after_.store(now + std::max<Clock::duration>(kPatience, now - start), std::memory_order_relaxed);
  wait(grains_to_finish_, finished);
  undue_after_.store(Clock::time_point::max(), std::memory_order_relaxed);
}

// Claiming is counting a share's grains down by one. Whoever succeeds holds a grain of the job that is running then,
// even if what it read before was an older job's count: the number of the grain is the count, and each is reached once
// a job. Until the grain is finished the caller waits, so that the job stays as it is.
//
// Returns how long the caller had to wait unduly for this thread.
std::chrono::nanoseconds ThreadPool::help(size_t thread) noexcept {
  const auto num_shares = static_cast<size_t>(num_threads_);
  unsigned finished = 0;
  for (size_t i = 0; i < num_shares; ++i) {
    const size_t share = (thread + i) % num_shares;
    std::atomic<unsigned>& left = shares_[share].grains_left;
    for (unsigned seen = left.load(std::memory_order_relaxed); seen != 0;) {
      if (!left.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_relaxed)) continue;
      job_.run(share, seen--, thread);
      ++finished;
    }
  }
  if (finished == 0) return {};
  const Clock::time_point undue_after = undue_after_.load(std::memory_order_relaxed);
  if (grains_to_finish_.fetch_sub(finished, std::memory_order_acq_rel) != finished) return {};
  grains_to_finish_.notify_one();
  if (undue_after == Clock::time_point::max()) return {};
  return std::max<Clock::duration>(Clock::now() - undue_after, {});
}

void ThreadPool::work(int thread) noexcept {
  const FloatEnv env;
  unsigned seen = 0;
  for (;;) {
    const auto is_new = [seen](unsigned generation) { return generation != seen; };
    if (!spin(generation_, is_new, kWorkerSpins, kSpinsBeforeYield)) wait(generation_, is_new);
    seen = generation_.load(std::memory_order_acquire);
    for (int active; (active = active_.load(std::memory_order_acquire)) <= thread;) active_.wait(active);
    if (stop_.load(std::memory_order_relaxed)) return;
    const std::chrono::nanoseconds undue = help(static_cast<size_t>(thread));
    if (undue.count() > 0) std::this_thread::sleep_for(std::min(kTimesAway * undue, kLongestAway));
  }
}

}  // namespace stepahead
