#define STEPAHEAD_ISA avx2
#define STEPAHEAD_VECTOR_AVX2
#include "isa/table.h"

namespace stepahead {

// Constant initialisation: no code of this instruction set runs before the table is chosen.
constinit const KernelTable avx2_table = avx2::make_table("avx2");

}  // namespace stepahead
