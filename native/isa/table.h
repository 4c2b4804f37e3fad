// Included last by each isa/<name>.cpp, after STEPAHEAD_ISA (the namespace) and the STEPAHEAD_VECTOR_… macro that
// selects the vector twins: everything below is compiled once an instruction set, in a namespace of its own. The
// kernels call nothing from the standard library: an inline function compiled here for AVX2 could be the copy that
// the linker keeps for the whole program.
#pragma once

#include "isa/dispatch.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/dequantize.h"
#include "kernels/kv_store.h"
#include "kernels/linear_float.h"
#include "kernels/linear_int8.h"
#include "kernels/linear_interleaved.h"
#include "kernels/norm_rope.h"
#include "kernels/quantize_row.h"

// NOLINTNEXTLINE: one table an instruction set
#define STEPAHEAD_TABLE(isa)                                                                                         \
  {#isa,                                                                                                             \
   {isa::linear_float<isa::F32>, isa::linear_float<isa::F16>, isa::linear_float<isa::BF16>,                          \
    isa::linear_int8<isa::Q8_0>, isa::linear_int8<isa::Q4_0>, isa::linear_int8<isa::Q4_K>,                           \
    isa::linear_int8<isa::Q5_K>, isa::linear_int8<isa::Q6_K>},                                                       \
   {nullptr, nullptr, nullptr, isa::linear_interleaved<isa::Q8_0>, isa::linear_interleaved<isa::Q4_0>,               \
    isa::linear_interleaved<isa::Q4_K>, isa::linear_interleaved<isa::Q5_K>, isa::linear_interleaved<isa::Q6_K>},     \
   {isa::dequantize_float<isa::F32>, isa::dequantize_float<isa::F16>, isa::dequantize_float<isa::BF16>,              \
    isa::dequantize_q8_0, isa::dequantize_q4_0, isa::dequantize_q4_k, isa::dequantize_q5_k, isa::dequantize_q6_k},   \
   isa::quantize_row,                                                                                                \
   isa::add,                                                                                                         \
   isa::add_scaled,                                                                                                  \
   isa::sigmoid,                                                                                                     \
   isa::exp,                                                                                                         \
   isa::swiglu,                                                                                                      \
   isa::scale,                                                                                                       \
   isa::rms_norm,                                                                                                    \
   isa::rope,                                                                                                        \
   {isa::kv_store_f32, isa::kv_store_f16, isa::kv_store_q8_0},                                                       \
   {isa::attention<isa::F32>, isa::attention<isa::F16>, isa::attention<isa::KVQ8_0>}}
