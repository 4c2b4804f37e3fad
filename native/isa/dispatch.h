// Which kernel tables this machine can run.
#pragma once

#include <string>
#include <vector>

#include "isa/kernel_table.h"

namespace stepahead {

extern const KernelTable scalar_table;
extern const KernelTable avx2_table;
extern const KernelTable avx512_table;
extern const KernelTable neon_table;
extern const KernelTable neon_dotprod_table;

// Best first; the last is always "scalar".
std::vector<const KernelTable*> available_tables();

// Throws Error for a name that is not among them.
const KernelTable& find_table(const std::string& name);

}  // namespace stepahead
