// Four neighbouring floats, in one access of 16 bytes where the address allows it. What is computed from them does not
// depend on whether it did.
#pragma once
#include "cuda/primitives.h"

namespace fth::gpu {

struct Four {
  float v[4];
};
__device__ __forceinline__ bool whole(const float* p, int64_t left) {
  return left >= 4 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
}
// p[0] .. p[3], zero from p[left] on.
__device__ __forceinline__ Four load_four(const float* p, int64_t left) {
  Four r{};
  if (whole(p, left)) {
    const float4 all = *reinterpret_cast<const float4*>(p);
    r = {{all.x, all.y, all.z, all.w}};
  } else {
    for (int i = 0; i < 4; i++)
      if (i < left) r.v[i] = p[i];
  }
  return r;
}
// Those before p[left].
__device__ __forceinline__ void store_four(float* p, int64_t left, const Four& r) {
  if (whole(p, left)) {
    *reinterpret_cast<float4*>(p) = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
  } else {
    for (int i = 0; i < 4; i++)
      if (i < left) p[i] = r.v[i];
  }
}

}  // namespace fth::gpu
