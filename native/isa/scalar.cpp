#define STEPAHEAD_ISA scalar
#include "isa/table.h"

namespace stepahead {

constinit const KernelTable scalar_table = STEPAHEAD_TABLE(scalar);

}  // namespace stepahead
