// The threads that carry out an operation together: the first 128 of their block, which are all that most kernels have.
// They meet at a barrier of their own, so that device functions also serve where a block has other threads beside them.
#pragma once
#include "cuda/primitives.h"

namespace fth::gpu {

constexpr int kTeam = 128;

__device__ __forceinline__ void team_barrier() { group_barrier(1, kTeam); }

// The sum of every thread's v in a fixed order, the same in all of them. Uses the first floats of shared memory, one
// per warp.
__device__ __forceinline__ float team_sum(float v) {
  float* partial = shared_memory<float>();
  v = warp_sum(v);
  team_barrier();  // those of the last sum have been read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  team_barrier();
  float sum = 0;
  for (int i = 0; i < kTeam / 32; i++) sum += partial[i];
  return sum;
}

}  // namespace fth::gpu
