// Numbers to the blocks of GGUF's types. Slower than what the kernels do to activations, and never in their way: each
// block is searched for the scales that leave the least squared error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace stepahead {

// num_blocks blocks of a row; importance, one weight an element, may be null.
using BlockEncoder = void (*)(const float* x, const float* importance, size_t num_blocks, uint8_t* out) noexcept;

struct Encoder {
  int ggml_id;
  size_t block_size, block_bytes;
  float limit;  // larger magnitudes would need an infinite scale
  BlockEncoder encode;
};

inline constexpr size_t kNumEncoders = 16;

struct EncodeTable {
  const char* name;
  Encoder encoders[kNumEncoders];
};

// Best first; the last is always "portable".
std::vector<const EncodeTable*> available_encoders();

extern const EncodeTable portable_encoders;
extern const EncodeTable avx2_encoders;

// Of the best instruction set that the machine has ("") or of the one named; throws Error if there is none.
const Encoder& find_encoder(int ggml_id, const std::string& isa);

struct Rows {
  const float* x;
  const float* importance;  // of the columns, or null
  size_t num_rows, width;   // whole blocks
};

// Returns the first place in x of a number that the type cannot hold (its part of the row is left out), or SIZE_MAX.
// The same bytes for any number of threads and every table.
size_t encode_rows(const Encoder& encoder, const Rows& rows, int num_threads, uint8_t* out);

}  // namespace stepahead
