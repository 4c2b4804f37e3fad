#define STEPAHEAD_ISA neon_dotprod
#define STEPAHEAD_VECTOR_NEON
#define STEPAHEAD_VECTOR_DOTPROD
#include "isa/table.h"

namespace stepahead {

constinit const KernelTable neon_dotprod_table = neon_dotprod::make_table("neon_dotprod");

}  // namespace stepahead
