// Floats as integers in the same order: -0 equals +0, NaN is below all and alone 0.
#pragma once
#include "cuda/primitives.h"

namespace fth::gpu {

__device__ __forceinline__ uint32_t ordered(float v) {
  const uint32_t bits = __float_as_uint(v + 0.f);  // -0 is +0
  return v != v ? 0 : bits ^ (bits >> 31 != 0 ? 0xffffffff : 0x80000000);
}
// Back again; not from 0.
__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000 : 0xffffffff));
}

}  // namespace fth::gpu
