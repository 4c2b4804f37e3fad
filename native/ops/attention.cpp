#include "ops/attention.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/pages.h"

namespace stepahead {
namespace {

size_t kv_row_bytes(KVType type, size_t head_dim) {
  switch (type) {
    case KVType::F32: return 4 * head_dim;
    case KVType::F16: return 2 * head_dim;
    case KVType::Q8_0: break;
  }
  check(head_dim % 32 == 0, "kv_type q8_0 needs a head_dim that is a multiple of 32, not ", head_dim, "; use f16");
  return head_dim / 32 * 34;
}

// Rows [begin, end) of a pass, all of one sequence.
struct RowBlock {
  size_t begin, end;
  size_t size() const { return end - begin; }
};

std::vector<RowBlock> row_blocks(const AttentionRows& rows, size_t group) {
  const size_t most = group < kTaskQueries ? kTaskQueries / group : 1;
  std::vector<RowBlock> blocks;
  for (size_t r = 0; r < rows.num_rows; ++r) {
    const bool fits = r > 0 && rows.sequences[r] == rows.sequences[r - 1] && blocks.back().size() < most;
    if (!fits) blocks.push_back({r, r});
    blocks.back().end = r + 1;
  }
  return blocks;
}

// In how many parts a group is computed, each of which decodes the keys for itself: more than one only where threads
// would have nothing to do.
size_t parts_of_group(size_t group, size_t units, size_t threads) {
  size_t parts = 1;
  while (units * parts < threads && group / parts % 8 == 0) parts *= 2;
  return parts;
}

}  // namespace

KVBlocks::KVBlocks(KVType type, size_t num_blocks, size_t num_kv_heads, size_t head_dim)
    : type(type),
      num_blocks(num_blocks),
      num_kv_heads(num_kv_heads),
      head_dim(head_dim),
      row_bytes(kv_row_bytes(type, head_dim)) {
  const double asked = 2.0 * double(num_blocks) * double(num_kv_heads) * kBlockSize * double(row_bytes);
  check(asked < 0x1p46, "a KV cache of ", num_blocks, " blocks is more than any memory");
  memory_ = static_cast<uint8_t*>(take_pages(bytes()));
  check(memory_ != nullptr, "cannot reserve ", bytes(), " bytes for a KV cache of ", num_blocks, " blocks; use fewer");
}

KVBlocks::~KVBlocks() { give_pages_back(memory_, bytes()); }

void kv_write(Context& context, KVBlocks& kv, const Buffer& k, const Buffer& v, const int32_t* slots) {
  const auto store = context.kernels.kv_store[static_cast<size_t>(kv.type)];
  // Split over heads, not rows: were two rows to share a slot, the later one still wins on every thread count.
  context.run(kv.num_kv_heads, 6 * k.size(), [&](size_t begin, size_t end) noexcept {
    for (size_t r = 0; r < k.rows(); ++r) {
      const auto slot = static_cast<size_t>(slots[r]);
      const size_t block = slot / kBlockSize, offset = slot % kBlockSize;
      for (size_t h = begin; h < end; ++h) {
        const size_t at = block * kv.block_stride() + h * kv.head_stride() + offset * kv.row_bytes;
        store(k.row(r) + h * kv.head_dim, kv.head_dim, kv.keys() + at);
        store(v.row(r) + h * kv.head_dim, kv.head_dim, kv.values() + at);
      }
    }
  });
}

namespace {

// Elements of keys, each beside one of values, that cost as much as one addition of an elementwise op.
constexpr size_t kKeysAnAddition = 3;

size_t num_keys(const AttentionRows& rows) {
  size_t keys = 0;
  for (size_t r = 0; r < rows.num_rows; ++r) keys += static_cast<size_t>(rows.positions[r] - rows.first_keys[r] + 1);
  return keys;
}

}  // namespace

void attention(Context& context, const Buffer& q, const KVBlocks& kv, const AttentionRows& rows, float scale,
               Buffer& out) {
  const size_t whole = q.width() / kv.head_dim / kv.num_kv_heads;
  const std::vector<RowBlock> blocks = row_blocks(rows, whole);
  size_t most_rows = 0;
  for (const RowBlock& block : blocks) most_rows = std::max(most_rows, block.size());
  const auto at_work = static_cast<size_t>(context.pool.active_threads());
  const size_t parts = parts_of_group(whole, blocks.size() * kv.num_kv_heads, at_work), group = whole / parts;
  const size_t per_thread = attention_scratch(most_rows * group, kv.head_dim);
  const Scratch<float> scratch(*context.arena, per_thread * static_cast<size_t>(context.pool.num_threads()));
  const auto kernel = context.kernels.attention[static_cast<size_t>(kv.type)];
  const size_t units = blocks.size() * parts * kv.num_kv_heads;
  // Blocks of one head lie side by side: they are likely to read the same keys.
  context.run(units, num_keys(rows) * q.width() / kKeysAnAddition, [&](size_t begin, size_t end, size_t index) noexcept {
    for (size_t unit = begin; unit < end; ++unit) {
      const RowBlock& block = blocks[unit % blocks.size()];
      const size_t part = unit / blocks.size(), head = part / parts;
      AttentionTask task;
      task.q = q.row(block.begin) + part * group * kv.head_dim;
      task.y = out.row(block.begin) + part * group * kv.head_dim;
      task.row_stride = q.width();
      task.scratch = scratch.data() + index * per_thread;
      task.keys = kv.keys() + head * kv.head_stride();
      task.values = kv.values() + head * kv.head_stride();
      task.block_stride = kv.block_stride();
      task.table = rows.block_tables + static_cast<size_t>(rows.sequences[block.begin]) * rows.max_blocks;
      task.first = rows.first_keys + block.begin;
      task.last = rows.positions + block.begin;
      task.num_rows = block.size();
      task.group = group;
      task.head_dim = kv.head_dim;
      task.scale = scale;
      kernel(task);
    }
  });
}

}  // namespace stepahead
