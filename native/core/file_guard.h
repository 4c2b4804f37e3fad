// What a mapped file's end does to us. A file that is cut short while it is mapped has pages with nothing behind them,
// and so has one whose disk fails: touching one is a SIGBUS, by which a process dies without a word. Guarded files end
// it with a line of text and exit code 1. Every other SIGBUS is left to whoever would have had it.
#pragma once

#include <cstddef>
#include <string_view>

namespace stepahead {

inline constexpr size_t kMaxGuardedFiles = 1024;

// `line` is written to stderr as it stands if reading [data, data + bytes) faults. The first call takes SIGBUS over.
// Returns what unguard_file takes, or -1: the table is full, or the system has no such signal.
int guard_file(const void* data, size_t bytes, std::string_view line);

// To be called when nothing reads the memory any more. -1 is let pass.
void unguard_file(int slot);

}  // namespace stepahead
