// Blocks of one launch that wait for one another, or of which the last to come goes on.
#pragma once
#include "cuda/primitives.h"

namespace fth::gpu {

// For blocks that run together.
__device__ __forceinline__ void grid_barrier(unsigned* counter, unsigned round) {
  __syncthreads();
  if (threadIdx.x == 0) {
    count_up(counter);
    wait_for(counter, (round + 1) * gridDim.x);
  }
  __syncthreads();
}

// True in all threads that meet if theirs are the last of `count` to come, which then see what the others wrote before.
// The ticket is zero before, and zero again after. `flag` is shared memory, free again when they meet the next time.
template <class Meet>
__device__ __forceinline__ bool last_to_come(unsigned* ticket, unsigned count, unsigned* flag, Meet meet) {
  __threadfence();
  meet();
  if (threadIdx.x == 0) {
    *flag = atomicAdd(ticket, 1u);
    if (*flag == count - 1) atomicExch(ticket, 0u);
  }
  meet();
  const bool last = *flag == count - 1;
  if (last) __threadfence();
  return last;
}
__device__ __forceinline__ bool last_block(unsigned* ticket, unsigned blocks, unsigned* flag) {
  return last_to_come(ticket, blocks, flag, [] { __syncthreads(); });
}
// Of a group of threads of each block, the first among them, that meet at barrier `id`.
__device__ __forceinline__ bool last_group(unsigned* ticket, unsigned groups, unsigned* flag, int id, int threads) {
  return last_to_come(ticket, groups, flag, [=] { group_barrier(id, threads); });
}

}  // namespace fth::gpu
