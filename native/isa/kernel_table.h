// The kernels of one instruction set, as plain functions. Every table gives the same bits (docs/numerics.md); NaN
// payloads apart. Shapes are checked in bind/: a kernel trusts them, allocates nothing, starts no thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stepahead {

// The weight types that have kernels of their own; every other type of GGUF is decoded to F32 at use.
enum class WeightType {
  F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4, Q2_K, Q3_K, IQ4_XS, IQ3_XXS
};
inline constexpr size_t kNumWeightTypes = 17;

enum class KVType { F32, F16, Q8_0 };

// Positions in a block of the KV cache, and in a chunk of attention.
inline constexpr size_t kBlockSize = 64;

// Output rows that a linear kernel computes side by side: parts of a matrix for threads are multiples of it, and so
// are the rows of an interleaved matrix.
inline constexpr size_t kTileRows = 16;

// How the bytes of a matrix lie. Plain: row after row, as in the file. Interleaved: kTileRows rows make a panel, of as
// many bytes as they had. First their blocks in ascending K, each cut into dwords, dword c of row i at 4 (16 c + i);
// then, for types whose block is no whole number of dwords, what was left of each block, row beside row.
enum class Layout { Plain, Interleaved };

struct TypeInfo {
  const char* name;
  int ggml_id;
  size_t block_size, block_bytes;
  size_t activation_block;  // elements of x that share one int8 scale; 0: x stays float32
  size_t rest_at;           // where the block_bytes % 4 bytes lie that an interleaved panel keeps apart

  constexpr size_t rest() const { return block_bytes % 4; }
  constexpr size_t dwords() const { return block_bytes / 4; }
  constexpr size_t dwords_at() const { return rest_at == 0 ? rest() : 0; }
};

inline constexpr TypeInfo kTypeInfo[kNumWeightTypes] = {
    {"F32", 0, 1, 4, 0, 0},
    {"F16", 1, 1, 2, 0, 0},
    {"BF16", 30, 1, 2, 0, 0},
    {"Q8_0", 8, 32, 34, 32, 0},
    {"Q4_0", 2, 32, 18, 32, 0},
    {"Q4_K", 12, 256, 144, 256, 0},
    {"Q5_K", 13, 256, 176, 256, 0},
    {"Q6_K", 14, 256, 210, 256, 208},
    {"Q4_1", 3, 32, 20, 32, 0},
    {"Q5_0", 6, 32, 22, 32, 0},
    {"Q5_1", 7, 32, 24, 32, 0},
    {"IQ4_NL", 20, 32, 18, 32, 0},
    {"MXFP4", 39, 32, 17, 32, 0},
    {"Q2_K", 10, 256, 84, 256, 0},
    {"Q3_K", 11, 256, 110, 256, 108},
    {"IQ4_XS", 23, 256, 136, 256, 0},
    {"IQ3_XXS", 18, 256, 98, 256, 0},
};

constexpr const TypeInfo& info(WeightType type) { return kTypeInfo[static_cast<size_t>(type)]; }

// One row of activations as a linear kernel wants it: float32, or int8 in blocks.
struct ActivationRow {
  const float* x;       // (num_in,)
  const int8_t* q;      // (num_in,)
  const float* d;       // (num_in / activation_block,)
  const int16_t* sums;  // (num_in / 16,) sums of 16 neighbouring q
};

// y[r][o] = rows[r] . matrix[o] for o in [begin, end), r < num_rows; begin is a multiple of kTileRows
using LinearKernel = void (*)(const uint8_t* matrix, size_t row_bytes, size_t begin, size_t end, size_t num_in,
                              const ActivationRow* rows, size_t num_rows, float* const* y) noexcept;

// A few rows of one sequence and one KV head of attention: rows and query heads of the group share the loads.
struct AttentionTask {
  const float* q;  // of the first row, (group, head_dim)
  float* y;
  size_t row_stride;    // floats from a row of q, or of y, to the next
  float* scratch;       // attention_scratch(num_rows * group, head_dim) floats
  const uint8_t* keys;  // of block 0 and this KV head: (kBlockSize, head_dim) in the KV type
  const uint8_t* values;
  size_t block_stride;          // bytes from a block to the next
  const int32_t* table;         // block of each chunk
  const int32_t *first, *last;  // (num_rows,) positions seen, both included
  size_t num_rows, group, head_dim;
  float scale;
};

// Keys or values that a task decodes at a time, and the floats that it keeps for a row's query head beside vectors.
inline constexpr size_t kTileKeys = 32, kQueryFloats = 16;
// Query heads over the rows of a task: with more of them, sharing gains nothing that can be measured.
inline constexpr size_t kTaskQueries = 64;

// A head's vector in scratch: whole registers of any instruction set.
constexpr size_t attention_width(size_t head_dim) { return (head_dim + 15) / 16 * 16; }

constexpr size_t attention_scratch(size_t num_queries, size_t head_dim) {
  return (kTileKeys + 2 * num_queries) * attention_width(head_dim) + num_queries * (kBlockSize + kQueryFloats);
}

// --8<-- [start:table]
struct KernelTable {
  const char* name;
  LinearKernel linear[kNumWeightTypes];
  LinearKernel linear_interleaved[kNumWeightTypes];  // null for types with a float32 x
  // Row of weights to float32, n elements.
  void (*dequantize[kNumWeightTypes])(const uint8_t* row, size_t n, float* y) noexcept;
  void (*quantize_row)(const float* x, size_t n, size_t block, int8_t* q, float* d, int16_t* sums) noexcept;

  void (*add)(const float* x, const float* y, size_t n, float* out) noexcept;
  // acc += weight * x
  void (*add_scaled)(const float* x, float weight, size_t n, float* acc) noexcept;
  void (*sigmoid)(const float* x, size_t n, float* out) noexcept;
  void (*exp)(const float* x, size_t n, float* out) noexcept;
  void (*swiglu)(const float* gate, const float* up, size_t n, float limit, float* out) noexcept;
  void (*scale)(const float* x, float factor, size_t n, float* out) noexcept;
  // weight may be null
  void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* out) noexcept;
  // In place: the pairs (j, j + half) for j < half
  void (*rope)(float* x, const float* cos, const float* sin, size_t half) noexcept;

  void (*kv_store[3])(const float* x, size_t head_dim, uint8_t* out) noexcept;
  void (*attention[3])(const AttentionTask& task) noexcept;
};
// --8<-- [end:table]

}  // namespace stepahead
