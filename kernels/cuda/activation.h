// The pointwise functions of the C interface.
#pragma once
#include "cuda/primitives.h"
#include "fathom/fathom.h"

namespace fth::gpu {

__device__ __forceinline__ float activate(int32_t activation, float z) {
  switch (activation) {
    case FTH_RELU: return z < 0 ? 0 : z;
    case FTH_GELU: return 0.5f * z * erfcf(-0.707106781f * z);
    case FTH_GELU_TANH: return 0.5f * z * (1 + tanhf(0.797884561f * (z + 0.044715f * z * z * z)));
    case FTH_SILU: return z / (1 + expf(-z));
    default: return z;
  }
}

}  // namespace fth::gpu
