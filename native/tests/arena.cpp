#include "core/arena.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>

#include "tests/check.h"

using stepahead::Arena;
using stepahead::Buffer;
using stepahead::Scratch;

namespace {

void every_size_is_aligned_and_usable() {
  Arena arena;
  for (size_t bytes = 0; bytes < 5000; bytes += 7) {
    auto* memory = static_cast<char*>(arena.acquire(bytes));
    CHECK(reinterpret_cast<uintptr_t>(memory) % Arena::kAlignment == 0);
    std::memset(memory, 1, bytes);
    CHECK(arena.bytes_in_use() >= bytes);
    CHECK(bytes < 1024 || arena.bytes_in_use() <= bytes + bytes / 4 + 1);
    arena.release(memory, bytes);
    CHECK(arena.bytes_in_use() == 0);
  }
  arena.trim();
  CHECK(arena.bytes_idle() == 0);
}

void memory_is_used_again() {
  Arena arena;
  void* first = arena.acquire(100'000);
  void* second = arena.acquire(100'000);
  CHECK(first != second);
  arena.release(first, 100'000);
  CHECK(arena.acquire(99'000) == first);
  arena.release(first, 99'000);
  arena.release(second, 100'000);
}

void idle_memory_has_a_limit() {
  Arena arena;
  constexpr size_t bytes = size_t{100} << 20;
  void* memory[4];
  for (void*& m : memory) m = arena.acquire(bytes);
  for (void* m : memory) arena.release(m, bytes);
  CHECK(arena.bytes_idle() <= size_t{256} << 20);
  CHECK(arena.bytes_idle() > 0);
}

void what_is_idle_the_longest_goes_first() {
  Arena arena;
  constexpr size_t large = size_t{100} << 20, small = size_t{40} << 20;
  void* first = arena.acquire(large);
  void* second = arena.acquire(small);
  void* third = arena.acquire(large);
  arena.release(first, large);
  arena.release(second, small);
  CHECK(arena.acquire(large) == first);  // now the second is the oldest
  arena.release(first, large);
  arena.release(third, large);
  const size_t idle = arena.bytes_idle();
  CHECK(idle >= 2 * large && idle <= size_t{256} << 20);
  CHECK(arena.acquire(large) == third);
  CHECK(arena.acquire(large) == first);
  CHECK(arena.bytes_idle() == 0);
  arena.release(first, large);
  arena.release(third, large);
}

void one_block_does_not_drive_all_others_out() {
  Arena arena;
  constexpr size_t huge = size_t{300} << 20, small = size_t{1} << 20;
  void* kept = arena.acquire(small);
  arena.release(kept, small);
  arena.release(arena.acquire(huge), huge);
  CHECK(arena.bytes_idle() >= small);
  CHECK(arena.bytes_idle() < 2 * small);
}

void fresh_memory_can_be_full_of_nan() {
  const auto arena = std::make_shared<Arena>();
  arena->fill_with_nan(true);
  const Buffer buffer(arena, 3, 5);
  for (size_t i = 0; i < buffer.size(); ++i) CHECK(std::isnan(buffer.data()[i]));
  const Scratch<double> scratch(*arena, 10);
  CHECK(std::isnan(scratch[9]));
}

void absurd_sizes_throw() {
  Arena arena;
  bool threw = false;
  try {
    arena.acquire(~size_t{0});
  } catch (const std::bad_alloc&) {
    threw = true;
  }
  CHECK(threw);
  CHECK(arena.bytes_in_use() == 0);
}

void threads_may_share_it() {
  Arena arena;
  std::thread threads[4];
  for (int t = 0; t < 4; ++t) {
    threads[t] = std::thread([&arena, t] {
      for (int i = 0; i < 2000; ++i) {
        const size_t count = static_cast<size_t>(100 + (i * 37 + t * 11) % 3000);
        const Scratch<int> scratch(arena, count);
        scratch[0] = scratch[count - 1] = t;
        CHECK(scratch[0] == t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(arena.bytes_in_use() == 0);
}

}  // namespace

void test_arena() {
  every_size_is_aligned_and_usable();
  memory_is_used_again();
  idle_memory_has_a_limit();
  what_is_idle_the_longest_goes_first();
  one_block_does_not_drive_all_others_out();
  fresh_memory_can_be_full_of_nan();
  absurd_sizes_throw();
  threads_may_share_it();
}
