// Sums over a block, in a fixed order.
#pragma once
#include "cuda/primitives.h"

namespace fth::gpu {

// The sum of every thread's v, the same in all of them. Uses the first Threads / 32 floats of shared memory.
template <int Threads>
__device__ __forceinline__ float block_sum(float v) {
  float* partial = shared_memory<float>();
  v = warp_sum(v);
  __syncthreads();  // those of the last sum have been read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < Threads / 32; i++) sum += partial[i];
  return sum;
}

}  // namespace fth::gpu
