#include "core/file_guard.h"

#ifdef _WIN32

namespace stepahead {

int guard_file(const void*, size_t, std::string_view) { return -1; }
void unguard_file(int) {}

}  // namespace stepahead

#else

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace stepahead {
namespace {

// bytes is set last and cleared first: a handler that sees it sees the rest.
struct Guarded {
  std::atomic<uintptr_t> begin{0};
  std::atomic<size_t> bytes{0};
  char* line = nullptr;
  size_t length = 0;
};

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<size_t>::is_always_lock_free);

Guarded table[kMaxGuardedFiles];
std::mutex table_mutex;
bool is_installed = false;
struct sigaction previous;

// Runs in whichever thread touched the page, whatever that holds: nothing here may lock or allocate.
void on_bus_error(int signal, siginfo_t* info, void*) {
  if (info->si_code > 0) {  // a fault, and not a signal that someone sent
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    for (const Guarded& file : table) {
      const size_t bytes = file.bytes.load(std::memory_order_acquire);
      if (bytes == 0 || address - file.begin.load(std::memory_order_relaxed) >= bytes) continue;
      for (size_t done = 0; done < file.length;) {
        const ssize_t count = write(STDERR_FILENO, file.line + done, file.length - done);
        if (count <= 0) break;
        done += static_cast<size_t>(count);
      }
      _exit(1);
    }
  }
  sigaction(signal, &previous, nullptr);
  if (info->si_code <= 0) raise(signal);  // one that was sent does not come again by itself, as a fault does
}

void install() {
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  is_installed = sigaction(SIGBUS, &action, &previous) == 0;
}

}  // namespace

int guard_file(const void* data, size_t bytes, std::string_view line) {
  const std::lock_guard lock(table_mutex);
  if (!is_installed) install();
  if (!is_installed || bytes == 0) return -1;
  for (size_t slot = 0; slot < kMaxGuardedFiles; ++slot) {
    Guarded& file = table[slot];
    if (file.line != nullptr) continue;
    file.line = new char[line.size()];
    file.length = line.size();
    std::memcpy(file.line, line.data(), line.size());
    file.begin.store(reinterpret_cast<uintptr_t>(data), std::memory_order_relaxed);
    file.bytes.store(bytes, std::memory_order_release);
    return static_cast<int>(slot);
  }
  return -1;
}

void unguard_file(int slot) {
  if (slot < 0 || static_cast<size_t>(slot) >= kMaxGuardedFiles) return;
  const std::lock_guard lock(table_mutex);
  Guarded& file = table[slot];
  file.bytes.store(0, std::memory_order_relaxed);
  delete[] file.line;  // nobody reads the memory, so no handler looks for its line
  file.line = nullptr;
}

}  // namespace stepahead

#endif
