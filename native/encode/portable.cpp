#define STEPAHEAD_ISA encode_portable
#include "encode/table.h"

namespace stepahead {

constinit const EncodeTable portable_encoders = encode_portable::make_table("portable");

}  // namespace stepahead
