#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
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

void parts_lie_at_fixed_places() {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    size_t begins[3] = {}, ends[3] = {};
    pool.run(10, [&](size_t begin, size_t end, size_t index) noexcept {
      begins[index] = begin;
      ends[index] = end;
    });
    CHECK(begins[0] == 0 && ends[0] == 4 && begins[1] == 4 && ends[1] == 7 && begins[2] == 7 && ends[2] == 10);
  }
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
  parts_lie_at_fixed_places();
  results_are_visible_after_run();
  parked_workers_wake();
  callers_take_turns();
  pools_come_and_go();
}
