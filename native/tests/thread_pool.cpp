#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

#include "tests/check.h"

using stepahead::ThreadPool;

namespace {

void every_output_is_computed_once() {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (size_t count = 0; count < 40; ++count) {
      std::vector<int> times(count);
      pool.run(count, [&](size_t begin, size_t end) noexcept {
        for (size_t i = begin; i < end; ++i) ++times[i];
      });
      for (int t : times) CHECK(t == 1);
    }
  }
}

void others_finish_what_a_busy_thread_leaves() {
  // Whoever gets the first output holds it until all others are done: they can only be done by the other threads.
  for (int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      constexpr size_t count = 500;
      std::atomic<size_t> done{0};
      std::atomic<size_t> held{0};
      pool.run(count, [&](size_t begin, size_t end) noexcept {
        if (begin == 0) {
          held = end;
          while (done + end < count) std::this_thread::yield();
        }
        done += end - begin;
      });
      CHECK(done == count && held > 0 && held < count / 2);
    }
  }
}

void nobody_waits_for_a_thread_that_began_nothing() {
  // Workers are parked by the sleep; the outputs take less time than waking them. Were a run to wait for all of them
  // to come, or a late one to repeat or to skip what is done, the counts would tell.
  ThreadPool pool(8);
  std::vector<int> times(64);
  for (int round = 1; round <= 2000; ++round) {
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.run(times.size(), [&](size_t begin, size_t end) noexcept {
      for (size_t i = begin; i < end; ++i) ++times[i];
    });
    for (int t : times) CHECK(t == round);
  }
}

void late_workers_find_the_job_of_the_day() {
  // Jobs of other functions, sizes and places follow each other without a pause, so that a worker that looked at one
  // claims in the next: it must then compute the next.
  ThreadPool pool(4);
  for (size_t round = 0; round < 20000; ++round) {
    const size_t count = 2 + round % 61;
    unsigned char outputs[64] = {};
    const auto add = [&](size_t begin, size_t end) noexcept {
      for (size_t i = begin; i < end; ++i) outputs[i] = static_cast<unsigned char>(outputs[i] + i + round);
    };
    const auto subtract = [&](size_t begin, size_t end) noexcept {
      for (size_t i = begin; i < end; ++i) outputs[i] = static_cast<unsigned char>(outputs[i] - i - round);
    };
    if (round % 2) {
      pool.run(count, add);
      for (size_t i = 0; i < count; ++i) CHECK(outputs[i] == static_cast<unsigned char>(i + round));
    } else {
      pool.run(count, subtract);
      for (size_t i = 0; i < count; ++i) CHECK(outputs[i] == static_cast<unsigned char>(0 - i - round));
    }
    for (size_t i = count; i < 64; ++i) CHECK(outputs[i] == 0);
  }
}

void scratch_of_a_thread_is_its_own() {
  ThreadPool pool(4);
  for (int round = 0; round < 500; ++round) {
    std::atomic<int> inside[4] = {};
    std::atomic<bool> shared{false};
    pool.run(100, [&](size_t, size_t, size_t thread) noexcept {
      if (thread >= 4 || inside[thread]++ != 0) shared = true;
      --inside[thread];
    });
    CHECK(!shared);
  }
}

void fewer_threads_may_work() {
  ThreadPool pool(4);
  for (int round = 0; round < 300; ++round) {
    const int active = 1 + round % 4;
    pool.set_active_threads(active);
    CHECK(pool.active_threads() == active && pool.num_threads() == 4);
    std::vector<int> times(200);
    pool.run(times.size(), [&](size_t begin, size_t end) noexcept {
      for (size_t i = begin; i < end; ++i) ++times[i];
    });
    for (int t : times) CHECK(t == 1);
  }
  pool.set_active_threads(1);
  for (int round = 0; round < 100; ++round) {
    const auto caller = std::this_thread::get_id();
    std::atomic<bool> alone{true};
    pool.run(100, [&](size_t, size_t) noexcept { alone = alone && std::this_thread::get_id() == caller; });
    CHECK(alone);
  }
}

// Whether thread 1, having held up the caller for 20 milliseconds, computes nothing in the 10 that follow.
bool stays_away(ThreadPool& pool) {
  using Clock = std::chrono::steady_clock;
  std::atomic<bool> was_late{false};
  while (!was_late) {
    pool.run(64, [&](size_t, size_t, size_t thread) noexcept {
      if (thread != 1 || was_late) return;
      was_late = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // as if another program had its core
    });
  }
  std::atomic<bool> came{false};
  for (const auto start = Clock::now(); Clock::now() - start < std::chrono::milliseconds(10);) {
    pool.run(64, [&](size_t, size_t, size_t thread) noexcept { came = came || thread == 1; });
  }
  return !came;
}

void a_thread_that_held_up_the_others_stays_away() {
  ThreadPool pool(2);
  // On a busy machine the caller itself may be kept from its core, and then was not held up.
  bool stayed_away = false;
  for (int round = 0; round < 30 && !stayed_away; ++round) stayed_away = stays_away(pool);
  CHECK(stayed_away);
  // It comes back: were it gone for good, this would not end.
  for (std::atomic<bool> came{false}; !came;) {
    pool.run(64, [&](size_t, size_t, size_t thread) noexcept {
      came = came || thread == 1;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    });
  }
}

// CPU time of the whole process, in seconds.
double cpu_time() { return double(std::clock()) / CLOCKS_PER_SEC; }

void an_idle_pool_sleeps() {
  ThreadPool pool(4);
  pool.run(1000, [](size_t, size_t) noexcept {});
  const double before = cpu_time();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  CHECK(cpu_time() - before < 0.1);  // three workers that spin would take up to 0.6
}

void results_are_visible_after_run() {
  ThreadPool pool(4);
  std::vector<size_t> values(1000, 0);
  for (size_t round = 1; round <= 3000; ++round) {
    pool.run(values.size(), [&](size_t begin, size_t end) noexcept {
      for (size_t i = begin; i < end; ++i) values[i] += i;
    });
    CHECK(values[999] == 999 * round);
  }
}

void parked_workers_wake() {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<size_t> sum{0};
    pool.run(300, [&](size_t begin, size_t end) noexcept { sum += end - begin; });
    CHECK(sum == 300);
  }
}

void callers_take_turns() {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&pool] {
      for (int round = 0; round < 300; ++round) {
        std::vector<int> times(50);
        pool.run(50, [&](size_t begin, size_t end) noexcept {
          for (size_t i = begin; i < end; ++i) ++times[i];
        });
        for (int t : times) CHECK(t == 1);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

void pools_come_and_go() {
  for (int round = 0; round < 100; ++round) {
    ThreadPool pool(1 + round % 5);
    if (round % 2) pool.run(7, [](size_t, size_t) noexcept {});
  }
}

}  // namespace

void test_thread_pool() {
  every_output_is_computed_once();
  others_finish_what_a_busy_thread_leaves();
  nobody_waits_for_a_thread_that_began_nothing();
  late_workers_find_the_job_of_the_day();
  scratch_of_a_thread_is_its_own();
  fewer_threads_may_work();
  a_thread_that_held_up_the_others_stays_away();
  an_idle_pool_sleeps();
  results_are_visible_after_run();
  parked_workers_wake();
  callers_take_turns();
  pools_come_and_go();
}
