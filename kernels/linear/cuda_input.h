// Rows of x as products read them.
#pragma once
#include "cuda/primitives.h"
#include "linear.h"

namespace fth::linear {
namespace {

using namespace gpu;

struct Rounding {
  const float* x;
  int64_t k;
  uint16_t* y;
  int64_t y_stride;
  __host__ __device__ int64_t eights() const { return (k + 7) / 8; }
};
struct Quantising {
  const float* x;
  int64_t k, span;  // in units, at most kMostSpan
  char* y;
  __host__ __device__ int64_t units() const { return (k + kCodeUnit - 1) / kCodeUnit; }
  __host__ __device__ int64_t spans() const { return (units() + span - 1) / span; }
};

__device__ __forceinline__ uint32_t bytes_of(int a, int b, int c, int d) {
  return uint32_t(a & 255) | uint32_t(b & 255) << 8 | uint32_t(c & 255) << 16 | uint32_t(d & 255) << 24;
}

// Eight neighbouring elements of a row, by one thread.
__device__ __forceinline__ void round_eight(const Rounding& p, int64_t row, int64_t first) {
  const int64_t k = p.k;
  const float* from = p.x + row * k + first;
  float v[8];
  if (first + 8 <= k && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
    v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
    v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
  } else {
    for (int j = 0; j < 8; j++) v[j] = first + j < k ? from[j] : 0.f;
  }
  *reinterpret_cast<uint4*>(p.y + row * p.y_stride + first) =
      make_uint4(to_bf16x2(v[0], v[1]).bits, to_bf16x2(v[2], v[3]).bits, to_bf16x2(v[4], v[5]).bits,
                 to_bf16x2(v[6], v[7]).bits);
}

constexpr int kMostSpan = 4;

// Span number `number` of a row, by one warp; the rule of fixed_point (simd/scalar.h).
__device__ __forceinline__ void quantise_span(const Quantising& p, int64_t row, int64_t number) {
  const int lane = threadIdx.x % 32;
  const int64_t k = p.k, all = p.units(), first = number * p.span;
  const int count = int(all - first < p.span ? all - first : p.span);
  float v[kMostSpan][4], most = 0;  // infinite if any is not finite
#pragma unroll
  for (int u = 0; u < kMostSpan; u++)
    for (int j = 0; j < 4; j++) {
      const int64_t i = (first + u) * kCodeUnit + lane * 4 + j;
      v[u][j] = u < count && i < k ? p.x[row * k + i] : 0.f;
      most = fmaxf(most, fabsf(v[u][j]) < INFINITY ? fabsf(v[u][j]) : INFINITY);
    }
  most = warp_max(most);
  const bool finite = most < INFINITY, zero = most < 0x1p-100f;
  const float steps = !finite || zero ? 0.f : 127.f / most;
  char* const to = p.y + (row * all + first) * kUnitBytes;
#pragma unroll
  for (int u = 0; u < kMostSpan; u++) {
    if (u >= count) break;
    int code[4];
    for (int j = 0; j < 4; j++) {
      const float rounded = nearbyintf(__fmul_rn(v[u][j], steps));
      code[j] = fabsf(rounded) <= 127 ? int(rounded) : 0;  // not a number: the scale says so
    }
    reinterpret_cast<uint32_t*>(to + u * kCodeUnit)[lane] = bytes_of(code[0], code[1], code[2], code[3]);
    if (lane == 0)
      reinterpret_cast<Scale*>(to + count * kCodeUnit)[u].scale = !finite ? NAN : zero ? 0.f : most / 127.f;
  }
}

}  // namespace
}  // namespace fth::linear
