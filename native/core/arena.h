// Memory of activations and scratch: 64-byte aligned, recycled by size class, because a pass asks for the same sizes
// again and again and the system's large allocations cost a page fault each 4 KiB. Fresh memory holds anything. What has
// been idle the longest goes back to the system when there is too much of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace stepahead {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  void* acquire(size_t bytes);  // throws std::bad_alloc
  void release(void* memory, size_t bytes) noexcept;
  void trim() noexcept;  // returns the idle memory to the system

  size_t bytes_in_use() const noexcept;
  size_t bytes_idle() const noexcept;
  // For tests: whatever is acquired from now on is full of NaN.
  void fill_with_nan(bool on) noexcept;

 private:
  static constexpr size_t kNumClasses = 256;
  struct Idle {
    void* memory;
    uint64_t since;  // counted in releases
  };
  static size_t size_class(size_t bytes) noexcept;
  static size_t class_bytes(size_t index) noexcept;
  void trim_locked(size_t most_idle) noexcept;

  mutable std::mutex mutex_;
  std::array<std::vector<Idle>, kNumClasses> idle_;  // each with its oldest first
  size_t bytes_in_use_ = 0;
  size_t bytes_idle_ = 0;
  uint64_t num_released_ = 0;
  bool fill_with_nan_ = false;
};

// `count` elements of scratch, given back at the end of the scope.
template <class T>
class Scratch {
 public:
  Scratch(Arena& arena, size_t count)
      : arena_(arena), bytes_(count * sizeof(T)), data_(static_cast<T*>(arena.acquire(bytes_))) {}
  ~Scratch() { arena_.release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const noexcept { return data_; }
  T& operator[](size_t i) const noexcept { return data_[i]; }

 private:
  Arena& arena_;
  size_t bytes_;
  T* data_;
};

// Activations, (rows, width) float32.
class Buffer {
 public:
  Buffer(std::shared_ptr<Arena> arena, size_t rows, size_t width)
      : arena_(std::move(arena)), rows_(rows), width_(width) {
    data_ = static_cast<float*>(arena_->acquire(bytes()));
  }
  ~Buffer() { arena_->release(data_, bytes()); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  size_t rows() const noexcept { return rows_; }
  size_t width() const noexcept { return width_; }
  size_t size() const noexcept { return rows_ * width_; }
  size_t bytes() const noexcept { return size() * sizeof(float); }
  float* data() const noexcept { return data_; }
  float* row(size_t r) const noexcept { return data_ + r * width_; }

 private:
  std::shared_ptr<Arena> arena_;
  size_t rows_, width_;
  float* data_;
};

}  // namespace stepahead
