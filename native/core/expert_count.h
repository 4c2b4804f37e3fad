// Distinct experts that the rows of a pass touch together: their weights are what a further row makes a pass read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stepahead {

struct ExpertCount {
  static constexpr size_t kMaxRows = 32;  // more rows than a step ever verifies of one sequence

  size_t num_rows = 0;
  int32_t added[kMaxRows] = {};  // by row: (layer, expert) pairs that no earlier row touched

  void reset() noexcept { *this = ExpertCount(); }

  // One layer's routing, (rows, top_k) ids; `touched` is scratch, a zero for each expert.
  void add_layer(const int32_t* ids, size_t rows, size_t top_k, bool* touched) noexcept {
    const size_t counted = rows < kMaxRows ? rows : kMaxRows;
    if (counted > num_rows) num_rows = counted;
    for (size_t i = 0; i < counted * top_k; ++i) {
      bool& seen = touched[ids[i]];
      added[i / top_k] += !seen;
      seen = true;
    }
  }
};

}  // namespace stepahead
