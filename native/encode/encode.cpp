#include "encode/encode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/thread_pool.h"
#include "isa/dispatch.h"

namespace stepahead {
namespace {

// Elements that a thread takes at once: some ten microseconds of work, and whole blocks of every type.
constexpr size_t kPart = 4096;

// The first of n numbers beyond the limit, or n. A NaN is beyond.
size_t first_beyond(const float* x, size_t n, float limit) noexcept {
  unsigned beyond = 0;
  for (size_t i = 0; i < n; ++i) beyond |= std::fabs(x[i]) <= limit ? 0 : 1;
  if (beyond == 0) return n;
  size_t i = 0;
  while (std::fabs(x[i]) <= limit) ++i;
  return i;
}

void lower_to(std::atomic<size_t>& least, size_t value) noexcept {
  size_t seen = least.load(std::memory_order_relaxed);
  while (value < seen && !least.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

}  // namespace

std::vector<const EncodeTable*> available_encoders() {
  std::vector<const EncodeTable*> tables;
#if defined(STEPAHEAD_HAVE_X86)
  for (const KernelTable* table : available_tables()) {
    if (std::strcmp(table->name, "avx2") == 0) tables.push_back(&avx2_encoders);
  }
#endif
  tables.push_back(&portable_encoders);
  return tables;
}

const Encoder& find_encoder(int ggml_id, const std::string& isa) {
  const auto tables = available_encoders();
  const auto table = std::find_if(tables.begin(), tables.end(),
                                  [&](const EncodeTable* t) { return isa.empty() || isa == t->name; });
  check(table != tables.end(), "this machine or build has no encoders for the instruction set ", isa);
  for (const Encoder& encoder : (*table)->encoders) {
    if (encoder.ggml_id == ggml_id) return encoder;
  }
  throw Error(join("tensor type ", ggml_id, " has no encoder"));
}

size_t encode_rows(const Encoder& encoder, const Rows& rows, int num_threads, uint8_t* out) {
  const size_t parts_a_row = (rows.width + kPart - 1) / kPart, parts = rows.num_rows * parts_a_row;
  const size_t row_bytes = rows.width / encoder.block_size * encoder.block_bytes;
  std::atomic<size_t> beyond{SIZE_MAX};
  ThreadPool pool(static_cast<int>(std::clamp<size_t>(parts, 1, static_cast<size_t>(num_threads))));
  pool.run(parts, [&](size_t begin, size_t end) noexcept {
    for (size_t part = begin; part < end; ++part) {
      const size_t row = part / parts_a_row, at = part % parts_a_row * kPart, n = std::min(kPart, rows.width - at);
      const float* x = rows.x + row * rows.width + at;
      const size_t bad = first_beyond(x, n, encoder.limit);
      if (bad < n) {
        lower_to(beyond, row * rows.width + at + bad);
        continue;
      }
      const float* importance = rows.importance == nullptr ? nullptr : rows.importance + at;
      encoder.encode(x, importance, n / encoder.block_size,
                     out + row * row_bytes + at / encoder.block_size * encoder.block_bytes);
    }
  });
  return beyond.load(std::memory_order_relaxed);
}

}  // namespace stepahead
