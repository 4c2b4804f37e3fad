// The KV cache of one layer, and attention over it.
#pragma once

#include "core/context.h"

namespace stepahead {

// Keys, then values, each (num_blocks, num_kv_heads, kBlockSize, head_dim) in the KV type. The system hands out the
// pages at the first write: blocks that no sequence uses cost nothing.
class KVBlocks {
 public:
  KVBlocks(KVType type, size_t num_blocks, size_t num_kv_heads, size_t head_dim);  // throws Error
  ~KVBlocks();
  KVBlocks(const KVBlocks&) = delete;
  KVBlocks& operator=(const KVBlocks&) = delete;

  const KVType type;
  const size_t num_blocks, num_kv_heads, head_dim;
  const size_t row_bytes;  // of one head at one position

  size_t head_stride() const noexcept { return kBlockSize * row_bytes; }
  size_t block_stride() const noexcept { return num_kv_heads * head_stride(); }
  size_t bytes() const noexcept { return 2 * num_blocks * block_stride(); }
  uint8_t* keys() const noexcept { return memory_; }
  uint8_t* values() const noexcept { return memory_ + num_blocks * block_stride(); }

 private:
  uint8_t* memory_;
};

// Where the rows of a pass stand; pointers to (num_rows,) and (num_sequences, max_blocks).
struct AttentionRows {
  size_t num_rows, max_blocks;
  const int32_t *positions, *first_keys, *sequences, *block_tables;
};

void kv_write(Context& context, KVBlocks& kv, const Buffer& k, const Buffer& v, const int32_t* slots);

void attention(Context& context, const Buffer& q, const KVBlocks& kv, const AttentionRows& rows, float scale,
               Buffer& out);

}  // namespace stepahead
