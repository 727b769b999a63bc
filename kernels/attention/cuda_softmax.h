// Softmax of query vectors, sixteen to a warp, as products of a warp lay scores out: a lane has rows lane / 4 and
// lane / 4 + 8 of them, and of every 8 keys the columns 2 (lane % 4) and the next.
#pragma once
#include "attention/attention.h"
#include "cuda/primitives.h"

namespace fth::attention {
namespace {

using namespace gpu;

constexpr int kTileVectors = 16, kKeyTiles = int(kChunk) / 8;
using Scores = float[kKeyTiles][4];  // [][0], [][1]: the first row's

// What a lane knows of its two rows: the largest score, and its share of the sum of weights.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
};

// What sums shrink by when the largest score becomes `max`.
__device__ __forceinline__ float shrink(float before, float max) {
  return before == max ? 1.f : exp2_fast((before - max) * kLog2e);
}

// Scores become weights, relative to the largest score so far. factor: what earlier sums shrink by.
__device__ __forceinline__ void weigh(Scores& s, Softmax& soft, float (&factor)[2]) {
#pragma unroll
  for (int e = 0; e < 2; e++) {
    float max = -INFINITY;
#pragma unroll
    for (int j = 0; j < kKeyTiles; j++) max = fmaxf(max, fmaxf(s[j][2 * e], s[j][2 * e + 1]));
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
    max = fmaxf(max, soft.max[e]);
    factor[e] = shrink(soft.max[e], max);
    soft.max[e] = max;
    const float base = max == -INFINITY ? 0.f : max * kLog2e;
    float sum = soft.sum[e] * factor[e];
#pragma unroll
    for (int j = 0; j < kKeyTiles; j++)
#pragma unroll
      for (int i = 2 * e; i < 2 * e + 2; i++) {
        s[j][i] = exp2_fast(fmaf(s[j][i], kLog2e, -base));
        sum += s[j][i];
      }
    soft.sum[e] = sum;
  }
}

// The sums of four lanes become the row's.
__device__ __forceinline__ void gather_sums(Softmax& soft) {
#pragma unroll
  for (int e = 0; e < 2; e++) {
    soft.sum[e] += __shfl_xor_sync(~0u, soft.sum[e], 1);
    soft.sum[e] += __shfl_xor_sync(~0u, soft.sum[e], 2);
  }
}

// A piece's state joins those before it. What has no weight leaves no trace.
struct Join {
  float keep[2], add[2];
  __device__ __forceinline__ Join(Softmax& total, const Softmax& piece) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float max = fmaxf(total.max[e], piece.max[e]);
      keep[e] = piece.sum[e] == 0 ? 1.f : shrink(total.max[e], max);
      add[e] = piece.sum[e] == 0 ? 0.f : shrink(piece.max[e], max);
      if (piece.sum[e] == 0) continue;
      total.sum[e] = fmaf(total.sum[e], keep[e], piece.sum[e] * add[e]);
      total.max[e] = max;
    }
  }
  __device__ __forceinline__ void operator()(float (&total)[4], const float (&piece)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (add[i / 2] != 0) total[i] = fmaf(total[i], keep[i / 2], piece[i] * add[i / 2]);
  }
};

}  // namespace
}  // namespace fth::attention
