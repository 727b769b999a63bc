// Writing into a pool of plain rows: a warp per item and head, whose lanes hold a side in words of 4 bytes (one f32,
// two bf16, four int8), so that each access of the pool is of whole lines.
#pragma once
#include "kv/cuda.h"

namespace fth::kv {
namespace {

using namespace gpu;

struct Params {
  cuda::Rows rows;
  const int32_t* entry;
  int64_t entry_stride, kv_heads, head_dim, items;  // items: of all heads
  int64_t stride;                                   // floats between items of k and v
  const float *k, *v;
  float *k_out, *v_out;
};

// Item and head of number i; false where there is no entry.
struct Place {
  int64_t item, head;
  int32_t entry;
};
__device__ __forceinline__ bool place_of(const Params& p, int64_t i, Place* at) {
  if (i >= p.items) return false;
  *at = {i / p.kv_heads, i % p.kv_heads, p.entry[i / p.kv_heads * p.entry_stride]};
  return at->entry >= 0;
}

template <class T>
__device__ __forceinline__ uint32_t word_of(const float (&x)[4], float steps);
template <>
__device__ __forceinline__ uint32_t word_of<float>(const float (&x)[4], float) { return __float_as_uint(x[0]); }
template <>
__device__ __forceinline__ uint32_t word_of<bf16>(const float (&x)[4], float) { return to_bf16x2(x[0], x[1]).bits; }
template <>
__device__ __forceinline__ uint32_t word_of<int8_t>(const float (&x)[4], float steps) {
  uint32_t word = 0;
  for (int i = 0; i < 4; i++) word |= (steps == 0 ? 0u : uint32_t(__float2int_rn(x[i] * steps)) & 0xff) << 8 * i;
  return word;
}

// Stores one side; the scale is int8's.
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
    // |x| as bits, which order as the numbers do, not-a-number behind infinity.
    uint32_t most = 0;
    for (int w = 0; w < kMostWords; w++)
      for (int i = 0; i < 4; i++) most = max(most, __float_as_uint(v[w][i]) & 0x7fffffffu);
    for (int i = 16; i > 0; i /= 2) most = max(most, __shfl_xor_sync(~0u, most, i));
    const float largest = __uint_as_float(most);
    const bool finite = most < 0x7f800000u, zero = most < 0x0d800000u;  // 2^-100
    if (finite && !zero) steps = 127.f / largest;
    if (lane == 0) *scale = zero ? 0.f : finite ? largest / 127.f : __uint_as_float(0x7fc00000u);
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
  const int64_t from = at.item * p.stride + at.head * p.head_dim;
  char* row = p.rows.row(at.head, at.entry);
  float* scale = p.rows.scale(at.head, at.entry);
  const int head_dim = int(p.head_dim), row_bytes = int(p.rows.row_bytes);
  write_side<T>(p.k + from, head_dim, row_bytes, row, scale);
  write_side<T>(p.v + from, head_dim, row_bytes, row + p.rows.v_offset, scale + kPage);
}

}  // namespace
}  // namespace fth::kv
