#define STEPAHEAD_ISA encode_avx2
#define STEPAHEAD_VECTOR_AVX2
#include "encode/table.h"

namespace stepahead {

constinit const EncodeTable avx2_encoders = encode_avx2::make_table("avx2");

}  // namespace stepahead
