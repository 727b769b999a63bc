// The only file that calls the CUDA runtime. The runtime is linked statically, so the library loads on a machine
// without a driver and reports that here.
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "cuda.h"

namespace fth {

int32_t cuda_device_count(char* why, int64_t why_bytes) {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  const size_t room = size_t(why_bytes);
  // The runtime calls a missing driver one that is too old.
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    snprintf(why, room, "no CUDA driver");
  else if (error == cudaSuccess || error == cudaErrorNoDevice)
    snprintf(why, room, "no CUDA device");
  else if (error == cudaErrorInsufficientDriver)
    snprintf(why, room, "the CUDA driver is for CUDA %d.%d and this library needs %d.%d", driver / 1000,
             driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  else
    snprintf(why, room, "no usable CUDA device: %s", cudaGetErrorString(error));
  return 0;
}

}  // namespace fth
