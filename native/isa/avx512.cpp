#define STEPAHEAD_ISA avx512
#define STEPAHEAD_VECTOR_AVX2  // its twins serve wherever there is no wider one
#define STEPAHEAD_VECTOR_AVX512
#include "isa/table.h"

namespace stepahead {

constinit const KernelTable avx512_table = avx512::make_table("avx512");

}  // namespace stepahead
