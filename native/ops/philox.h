// Random words by position and token: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
// SC 2011).
#pragma once

#include <cstddef>
#include <cstdint>

namespace stepahead {

// One word for each token id. Key: seed, low word first. Counter: (id / 4, position low, position high, 0), of whose
// four words the token takes id % 4; ids of one block that lie side by side share its rounds.
void token_words(uint64_t seed, uint64_t position, const int64_t* ids, size_t n, uint32_t* words) noexcept;

}  // namespace stepahead
