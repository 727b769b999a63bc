// Writing into a pool of plain rows: lanes hold a side in words of 4 bytes (one f32, two bf16, four int8), so that each
// access of the pool is of whole lines.
#pragma once
#include "kv/cuda.h"

namespace fth::kv {
namespace {

using namespace gpu;

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

}  // namespace
}  // namespace fth::kv
