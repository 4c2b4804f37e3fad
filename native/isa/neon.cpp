#define STEPAHEAD_ISA neon
#define STEPAHEAD_VECTOR_NEON
#include "isa/table.h"

namespace stepahead {

constinit const KernelTable neon_table = neon::make_table("neon");

}  // namespace stepahead
