// What the CUDA side of this library can use.
#pragma once
#include <cstdint>

namespace fth {

// Usable devices; 0 with a sentence in `why` if there are none.
int32_t cuda_device_count(char* why, int64_t why_bytes);

}  // namespace fth
