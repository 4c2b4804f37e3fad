#include "core/arena.h"

#include <bit>
#include <cstring>
#include <new>

#include "core/pages.h"

// Under ASan idle memory is poisoned: a view that outlives its buffer is reported, not read.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define STEPAHEAD_POISON(memory, bytes) ASAN_POISON_MEMORY_REGION(memory, bytes)
#define STEPAHEAD_UNPOISON(memory, bytes) ASAN_UNPOISON_MEMORY_REGION(memory, bytes)
#else
#define STEPAHEAD_POISON(memory, bytes) ((void)0)
#define STEPAHEAD_UNPOISON(memory, bytes) ((void)0)
#endif

namespace stepahead {
namespace {

constexpr size_t kSmallest = 256;
// Idle memory beyond this goes back to the system: a long prompt must not hold its activations for ever.
constexpr size_t kMaxIdle = size_t{256} << 20;
// Blocks from this size on are pages of their own: among smaller ones they would leave holes that stay ours.
constexpr size_t kPages = size_t{128} << 10;

void* take(size_t bytes) {
  if (bytes < kPages) return ::operator new(bytes, std::align_val_t{Arena::kAlignment});
  void* memory = take_pages(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void give_back(void* memory, size_t bytes) noexcept {
  STEPAHEAD_UNPOISON(memory, bytes);
  if (bytes < kPages) return ::operator delete(memory, std::align_val_t{Arena::kAlignment});
  give_pages_back(memory, bytes);
}

}  // namespace

// Four classes an octave: at most a quarter is wasted.
size_t Arena::size_class(size_t bytes) noexcept {
  if (bytes <= kSmallest) return 0;
  const size_t octave = std::bit_width((bytes - 1) / kSmallest) - 1;
  const size_t quarter = ((bytes - 1) >> (octave + 6)) & 3;  // 6 = log2(kSmallest) - 2
  return 4 * octave + quarter + 1;
}

size_t Arena::class_bytes(size_t index) noexcept {
  if (index == 0) return kSmallest;
  const size_t octave = (index - 1) / 4, quarter = (index - 1) % 4;
  return (kSmallest << octave) / 4 * (5 + quarter);
}

Arena::~Arena() { trim_locked(0); }

void* Arena::acquire(size_t bytes) {
  if (bytes > (size_t{1} << 46)) throw std::bad_alloc();
  const size_t index = size_class(bytes), size = class_bytes(index);
  const std::lock_guard lock(mutex_);
  void* memory;
  if (auto& list = idle_[index]; !list.empty()) {
    memory = list.back().memory;
    list.pop_back();
    bytes_idle_ -= size;
  } else {
    memory = take(size);
  }
  bytes_in_use_ += size;
  STEPAHEAD_UNPOISON(memory, bytes);
  if (fill_with_nan_) std::memset(memory, 0xFF, bytes);
  return memory;
}

void Arena::release(void* memory, size_t bytes) noexcept {
  const size_t index = size_class(bytes), size = class_bytes(index);
  const std::lock_guard lock(mutex_);
  bytes_in_use_ -= size;
  if (size <= kMaxIdle) {
    try {
      idle_[index].push_back({memory, num_released_++});
      bytes_idle_ += size;
      STEPAHEAD_POISON(memory, size);
      return trim_locked(kMaxIdle);
    } catch (const std::bad_alloc&) {
      // No memory to remember it by: give it back below.
    }
  }
  give_back(memory, size);
}

void Arena::trim() noexcept {
  const std::lock_guard lock(mutex_);
  trim_locked(0);
}

void Arena::trim_locked(size_t most_idle) noexcept {
  while (bytes_idle_ > most_idle) {
    size_t oldest = kNumClasses;
    for (size_t index = 0; index < kNumClasses; ++index) {
      if (idle_[index].empty()) continue;
      if (oldest == kNumClasses || idle_[index].front().since < idle_[oldest].front().since) oldest = index;
    }
    auto& list = idle_[oldest];
    give_back(list.front().memory, class_bytes(oldest));
    list.erase(list.begin());
    bytes_idle_ -= class_bytes(oldest);
  }
}

size_t Arena::bytes_in_use() const noexcept {
  const std::lock_guard lock(mutex_);
  return bytes_in_use_;
}

size_t Arena::bytes_idle() const noexcept {
  const std::lock_guard lock(mutex_);
  return bytes_idle_;
}

void Arena::fill_with_nan(bool on) noexcept {
  const std::lock_guard lock(mutex_);
  fill_with_nan_ = on;
}

}  // namespace stepahead
