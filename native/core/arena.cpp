#include "core/arena.h"

#include <bit>
#include <cstring>
#include <new>

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

Arena::~Arena() { trim_locked(); }

void* Arena::acquire(size_t bytes) {
  if (bytes > (size_t{1} << 46)) throw std::bad_alloc();
  const size_t index = size_class(bytes), size = class_bytes(index);
  const std::lock_guard lock(mutex_);
  void* memory;
  if (auto& list = idle_[index]; !list.empty()) {
    memory = list.back();
    list.pop_back();
    bytes_idle_ -= size;
  } else {
    memory = ::operator new(size, std::align_val_t{kAlignment});
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
  if (bytes_idle_ + size <= kMaxIdle) {
    try {
      idle_[index].push_back(memory);
      bytes_idle_ += size;
      STEPAHEAD_POISON(memory, size);
      return;
    } catch (const std::bad_alloc&) {
      // No memory to remember it by: give it back below.
    }
  }
  STEPAHEAD_UNPOISON(memory, size);
  ::operator delete(memory, std::align_val_t{kAlignment});
}

void Arena::trim() noexcept {
  const std::lock_guard lock(mutex_);
  trim_locked();
}

void Arena::trim_locked() noexcept {
  for (size_t index = 0; index < kNumClasses; ++index) {
    for (void* memory : idle_[index]) {
      STEPAHEAD_UNPOISON(memory, class_bytes(index));
      ::operator delete(memory, std::align_val_t{kAlignment});
    }
    idle_[index].clear();
  }
  bytes_idle_ = 0;
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
