// Attention over every KV type: chunks seen in part, groups of every size, rows that share the loads, and NaN wherever
// nobody may look.
#include <algorithm>

#include "core/error.h"
#include "tests/kernels/cases.h"

namespace kernel_tests {
namespace {

using stepahead::AttentionTask;
using stepahead::join;
using stepahead::kBlockSize;

constexpr const char* kTypeNames[] = {"f32", "f16", "q8_0"};
constexpr size_t kNumChunks = 3;

// Block of each chunk: not in order, and with one between them that nobody uses.
constexpr int32_t kBlocks[kNumChunks] = {2, 0, 3};
constexpr size_t kNumBlocks = 4;

struct Shape {
  size_t type, head_dim, group, rows, first, last;
  size_t row_bytes() const { return type == 0 ? 4 * head_dim : type == 1 ? 2 * head_dim : head_dim / 32 * 34; }
};

// 0xFF is NaN in every KV type; only the positions seen are written.
std::vector<uint8_t> cache(Random& random, const Shape& s, Kind kind) {
  std::vector<uint8_t> memory(kNumBlocks * kBlockSize * s.row_bytes(), 0xFF);
  for (size_t position = s.first; position <= s.last; ++position) {
    const auto block = static_cast<size_t>(kBlocks[position / kBlockSize]);
    const auto x = floats(random, s.head_dim, position % 5 == 0 ? kind : Kind::Normal);
    scalar().kv_store[s.type](x.data(), s.head_dim,
                              memory.data() + (block * kBlockSize + position % kBlockSize) * s.row_bytes());
  }
  return memory;
}

void test_case(const Shape& s, Kind kind) {
  Random random(s.head_dim * 100 + s.group * 10 + s.last);
  const auto keys = cache(random, s, kind), values = cache(random, s, kind);
  const auto q = floats(random, s.rows * s.group * s.head_dim, kind == Kind::NotFinite ? Kind::Normal : kind);
  std::vector<int32_t> firsts, lasts;  // each row sees a little less than the one before
  for (size_t r = 0; r < s.rows; ++r) {
    lasts.push_back(static_cast<int32_t>(s.last - std::min(5 * r, s.last - s.first)));
    firsts.push_back(std::min(static_cast<int32_t>(s.first + 2 * r), lasts.back()));
  }
  const auto attend = [&](const KernelTable& table, size_t row, size_t num_rows) {
    const size_t row_width = s.group * s.head_dim;
    std::vector<float> y(num_rows * row_width, kUntouched);
    std::vector<float> scratch(stepahead::attention_scratch(num_rows * s.group, s.head_dim), float_of(0x7FC00000));
    AttentionTask task;
    task.q = q.data() + row * row_width;
    task.y = y.data();
    task.row_stride = row_width;
    task.scratch = scratch.data();
    task.keys = keys.data();
    task.values = values.data();
    task.block_stride = kBlockSize * s.row_bytes();
    task.table = kBlocks;
    task.first = firsts.data() + row;
    task.last = lasts.data() + row;
    task.num_rows = num_rows;
    task.group = s.group;
    task.head_dim = s.head_dim;
    task.scale = 0.3f;
    table.attention[s.type](task);
    return y;
  };
  std::vector<float> expected;  // each row alone
  for (size_t r = 0; r < s.rows; ++r) {
    const auto row = attend(scalar(), r, 1);
    expected.insert(expected.end(), row.begin(), row.end());
  }
  auto tables = vector_tables();
  if (s.rows > 1) tables.push_back(&scalar());
  for (const KernelTable* table : tables) {
    Comparison(*table, join("attention ", kTypeNames[s.type], ", head_dim ", s.head_dim, ", group ", s.group, ", rows ",
                            s.rows, ", keys ", s.first, " to ", s.last, ", kind ", static_cast<int>(kind)))
        .same(attend(*table, 0, s.rows), expected);
  }
}

}  // namespace

void test_attention() {
  constexpr size_t kSpans[][2] = {{0, 0}, {0, 6}, {3, 63}, {5, 64}, {60, 70}, {0, 130}, {63, 191}, {100, 100}};
  for (size_t type = 0; type < 3; ++type) {
    for (const size_t head_dim : {5, 8, 32, 40, 64, 128, 160}) {
      if (type == 2 && head_dim % 32 != 0) continue;
      for (const size_t group : {1, 2, 3, 4, 5, 8, 9}) {
        for (size_t i = 0; i < std::size(kSpans); ++i) {
          // Under an emulator every combination would take minutes: each group meets half of the spans.
          if ((i + group + head_dim / 8) % 2 != 0) continue;
          const size_t rows = 1 + (i + head_dim) % 3;
          test_case({type, head_dim, group, rows, kSpans[i][0], kSpans[i][1]},
                    static_cast<Kind>((i + group) % kNumKinds));
        }
      }
    }
  }
}

}  // namespace kernel_tests
