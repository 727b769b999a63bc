// Sums over the threads before one's own.
#pragma once
#include "cuda/primitives.h"

namespace fth::gpu {

// The sum of v over those of the first `threads` of a block that are before this one; `total`: over all of them.
// `of_warps` is shared memory for one value per warp.
__device__ __forceinline__ int block_scan(int threads, int v, int* of_warps, int* total) {
  const int through = warp_scan(v);
  const unsigned warp = threadIdx.x / 32;
  group_barrier(1, threads);  // what of_warps held has been read
  if (threadIdx.x % 32 == 31) of_warps[warp] = through;
  group_barrier(1, threads);
  int before = 0, all = 0;
  for (unsigned w = 0; w < unsigned(threads) / 32; w++) {
    if (w == warp) before = all;
    all += of_warps[w];
  }
  *total = all;
  return before + through - v;
}

}  // namespace fth::gpu
