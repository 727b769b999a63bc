// The only file that calls the CUDA runtime. The runtime is linked statically, so the library loads on a machine without
// a driver and reports that here.
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "cuda.h"

namespace fth {

int32_t cuda_device_count(char* why, int64_t why_bytes) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  snprintf(why, size_t(why_bytes), "no usable CUDA device: %s",
           error == cudaSuccess ? "the driver reports none" : cudaGetErrorString(error));
  return 0;
}

}  // namespace fth
