// Writing into a pool of plain rows: lanes hold a side in words of 4 bytes (one f32, two bf16, four int8), so that each
// access of the pool is of whole lines.
#pragma once
#include "kv/cuda.h"

namespace fth::kv {
namespace {

using namespace gpu;

struct Params {
  cuda::Rows rows;
  const int32_t* entry;
  int64_t entry_stride, kv_heads, head_dim, items;  // items: of all heads of a target
  int64_t stride;                                   // floats between items of k and v
  cuda::Targets targets;
  int64_t layers, layer_bytes;
  const float *k, *v;
  float *k_out, *v_out;
};

// Target, item and head of number i; false behind the last one and where there is no entry.
struct Place {
  int64_t target, item, head;
  int32_t entry;

  // The pool from the target's layer on.
  __device__ __forceinline__ cuda::Rows rows(const Params& p) const {
    cuda::Rows of_layer = p.rows;
    of_layer.data += target % p.layers * p.layer_bytes;
    return of_layer;
  }
  __device__ __forceinline__ int64_t floats(const Params& p) const {
    return target * p.targets.stride + item * p.stride + head * p.head_dim;
  }
};
__device__ __forceinline__ bool place_of(const Params& p, int64_t i, Place* at) {
  const int64_t target = i / p.items, rest = i - target * p.items, item = rest / p.kv_heads;
  if (target >= p.targets.count) return false;
  *at = {target, item, rest - item * p.kv_heads, p.entry[item * p.entry_stride + target / p.layers]};
  return at->entry >= 0;
}

template <class T>
__device__ __forceinline__ uint32_t word_of(const float* x, float steps);
template <>
__device__ __forceinline__ uint32_t word_of<float>(const float* x, float) { return __float_as_uint(x[0]); }
template <>
__device__ __forceinline__ uint32_t word_of<bf16>(const float* x, float) { return to_bf16x2(x[0], x[1]).bits; }
template <>
__device__ __forceinline__ uint32_t word_of<int8_t>(const float* x, float steps) {
  uint32_t word = 0;
  for (int i = 0; i < 4; i++) word |= (steps == 0 ? 0u : uint32_t(__float2int_rn(x[i] * steps)) & 0xff) << 8 * i;
  return word;
}

// |x| as bits, which order as the numbers do, not-a-number behind infinity.
__device__ __forceinline__ uint32_t size_of(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// int8's rule, for a side whose largest |x| has these bits.
struct Scaling {
  float steps, scale;
  __device__ explicit Scaling(uint32_t most) {
    const float largest = __uint_as_float(most);
    const bool finite = most < 0x7f800000u, zero = most < 0x0d800000u;  // 2^-100
    steps = finite && !zero ? 127.f / largest : 0.f;
    scale = zero ? 0.f : finite ? largest / 127.f : __uint_as_float(0x7fc00000u);
  }
};

// Stores one side, by a warp; the scale is int8's.
template <class T>
__device__ __forceinline__ void write_side(const float* x, int head_dim, int row_bytes, char* to, float* scale) {
  constexpr int kTogether = 4 / sizeof(T), kMostWords = kMostHeadDim / kTogether / 32;
  const int lane = threadIdx.x % 32;
  float v[kMostWords][4];
#pragma unroll
  for (int w = 0; w < kMostWords; w++)
    for (int i = 0; i < kTogether; i++) {
      const int d = (lane + 32 * w) * kTogether + i;
      v[w][i] = d < head_dim ? x[d] : 0.f;
    }
  float steps = 0;
  if constexpr (sizeof(T) == 1) {
    uint32_t most = 0;
    for (int w = 0; w < kMostWords; w++)
      for (int i = 0; i < 4; i++) most = max(most, size_of(v[w][i]));
    for (int i = 16; i > 0; i /= 2) most = max(most, __shfl_xor_sync(~0u, most, i));
    const Scaling scaling(most);
    steps = scaling.steps;
    if (lane == 0) *scale = scaling.scale;
  }
#pragma unroll
  for (int w = 0; w < kMostWords; w++)
    if ((lane + 32 * w) * 4 < row_bytes)
      reinterpret_cast<uint32_t*>(to)[lane + 32 * w] = word_of<T>(v[w], steps);
}

// Stores K and V of an item and head, by one warp.
template <class T>
__device__ __forceinline__ void write_item(const Params& p, int64_t i) {
  Place at;
  if (!place_of(p, i, &at)) return;
  const int64_t from = at.floats(p);
  const cuda::Rows rows = at.rows(p);
  char* row = rows.row(at.head, at.entry);
  float* scale = rows.scale(at.head, at.entry);
  const int head_dim = int(p.head_dim), row_bytes = int(p.rows.row_bytes);
  write_side<T>(p.k + from, head_dim, row_bytes, row, scale);
  write_side<T>(p.v + from, head_dim, row_bytes, row + p.rows.v_offset, scale + kPage);
}

}  // namespace
}  // namespace fth::kv
