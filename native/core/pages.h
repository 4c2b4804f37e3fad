// Memory in whole pages, from the system and back to it at once. What the standard allocator is given back it may keep:
// beside a model of 6.8 GB it held 250 MB of blocks that nobody used any more.
#pragma once

#include <cstddef>

namespace stepahead {

// Zeros, at the start of a page; taken from the machine as they are first written. nullptr: there are none.
void* take_pages(size_t bytes) noexcept;

// `bytes` as they were taken. nullptr is let pass.
void give_pages_back(void* memory, size_t bytes) noexcept;

}  // namespace stepahead
