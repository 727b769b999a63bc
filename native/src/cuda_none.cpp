// Stands in for cuda.cu in a build without CUDA.
#include <stdio.h>

#include "cuda.h"

namespace fth {

int32_t cuda_device_count(char* why, int64_t why_bytes) {
  snprintf(why, size_t(why_bytes), "this library was built without CUDA");
  return 0;
}

}  // namespace fth
