// Included last by each isa/<name>.cpp, after STEPAHEAD_ISA (the namespace) and the STEPAHEAD_VECTOR_… macro that
// selects the vector twins: everything below is compiled once an instruction set, in a namespace of its own. The
// kernels call nothing from the standard library: an inline function compiled here for AVX2 could be the copy that
// the linker keeps for the whole program.
#pragma once

#include "isa/dispatch.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/dequantize.h"
#include "kernels/formats_256.h"
#include "kernels/formats_32.h"
#include "kernels/kv_store.h"
#include "kernels/linear_float.h"
#include "kernels/linear_int8.h"
#include "kernels/linear_interleaved.h"
#include "kernels/norm_rope.h"
#include "kernels/quantize_row.h"

namespace stepahead::STEPAHEAD_ISA {

template <class Type>
static consteval void add_float(KernelTable& table, WeightType type) {
  const auto at = static_cast<size_t>(type);
  table.linear[at] = linear_float<Type>;
  table.dequantize[at] = dequantize_float<Type>;
}

template <class Format>
static consteval void add_format(KernelTable& table) {
  constexpr TypeInfo type = info(Format::type);
  static_assert(sizeof(typename Format::Block) == type.block_bytes && Format::elements == type.block_size);
  const auto at = static_cast<size_t>(Format::type);
  table.linear[at] = linear_int8<Format>;
  table.linear_interleaved[at] = linear_interleaved<Format>;
  table.dequantize[at] = dequantize_blocks<Format>;
}

template <class... Formats>
static consteval void add_formats(KernelTable& table) {
  constexpr unsigned floats = 0b111, every = (1u << kNumWeightTypes) - 1;
  static_assert((floats | ... | (1u << static_cast<unsigned>(Formats::type))) == every, "a type has no kernels");
  (add_format<Formats>(table), ...);
}

static consteval KernelTable make_table(const char* name) {
  KernelTable table = {};
  table.name = name;
  add_float<F32>(table, WeightType::F32);
  add_float<F16>(table, WeightType::F16);
  add_float<BF16>(table, WeightType::BF16);
  add_formats<Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS, IQ3_XXS>(table);
  table.quantize_row = quantize_row;
  table.add = add;
  table.add_scaled = add_scaled;
  table.sigmoid = sigmoid;
  table.exp = exp;
  table.swiglu = swiglu;
  table.scale = scale;
  table.rms_norm = rms_norm;
  table.rope = rope;
  table.kv_store[static_cast<size_t>(KVType::F32)] = kv_store_f32;
  table.kv_store[static_cast<size_t>(KVType::F16)] = kv_store_f16;
  table.kv_store[static_cast<size_t>(KVType::Q8_0)] = kv_store_q8_0;
  table.attention[static_cast<size_t>(KVType::F32)] = attention<F32>;
  table.attention[static_cast<size_t>(KVType::F16)] = attention<F16>;
  table.attention[static_cast<size_t>(KVType::Q8_0)] = attention<KVQ8_0>;
  return table;
}

}  // namespace stepahead::STEPAHEAD_ISA
