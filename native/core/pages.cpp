#include "core/pages.h"

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <sys/mman.h>
#endif

namespace stepahead {

#ifdef _WIN32

void* take_pages(size_t bytes) noexcept {
  return VirtualAlloc(nullptr, bytes > 0 ? bytes : 1, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void give_pages_back(void* memory, size_t) noexcept {
  if (memory != nullptr) VirtualFree(memory, 0, MEM_RELEASE);
}

#else

// No bytes at all cannot be had: one, then.
void* take_pages(size_t bytes) noexcept {
  void* memory = mmap(nullptr, bytes > 0 ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

void give_pages_back(void* memory, size_t bytes) noexcept {
  if (memory != nullptr) munmap(memory, bytes > 0 ? bytes : 1);
}

#endif

}  // namespace stepahead
