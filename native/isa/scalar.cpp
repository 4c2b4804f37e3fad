#define STEPAHEAD_ISA scalar
#include "isa/table.h"

namespace stepahead {

constinit const KernelTable scalar_table = scalar::make_table("scalar");

}  // namespace stepahead
