// Reading elements of packed weights.
#pragma once
#include "cuda/primitives.h"
#include "tiles.h"

namespace fth::linear {

// Where a row of W lies: its strip, and its place there. `half`: 0, or 1 for the values with glu.
struct StripRow {
  int64_t strip;
  int row;
  __device__ StripRow(int64_t feature, int half, bool glu)
      : strip(glu ? feature / 32 : feature / 64),
        row(int(glu ? feature % 32 / 8 * 16 + half * 8 + feature % 8 : feature % 64)) {}
};

// Where the code of k is among the bytes of f8.
__device__ __forceinline__ int64_t f8_byte(int64_t k) {
  return k / 16 * 16 + k % 8 / 2 * 4 + k % 2 * 2 + k % 16 / 8;
}

// Codes of f8 in bits 8 .. 15 and 24 .. 31, and in 0 .. 7 and 16 .. 23, as bf16. The bits of e4m3 are those of a bf16
// number 2^-120 times as large, subnormal ones included.
__device__ __forceinline__ gpu::bf16x2 upper_codes(uint32_t v) {
  return gpu::times({(v >> 4 & 0x07f007f0) | (v & 0x80008000)}, {0x7b807b80});
}
__device__ __forceinline__ gpu::bf16x2 lower_codes(uint32_t v) {
  return gpu::times({(v << 4 & 0x07f007f0) | (v << 8 & 0x80008000)}, {0x7b807b80});
}

// W[row][k] of a strip of `steps` steps.
__device__ inline float weight_at(int32_t type, const unsigned char* strip, int64_t steps, int row, int64_t k) {
  using namespace gpu;
  const auto image = [&](int64_t step, int64_t step_bytes, int64_t byte) {
    return strip + step * step_bytes + swizzled(uint32_t(row * kTileRowBytes + byte));
  };
  switch (type) {
    case FTH_F32: return *reinterpret_cast<const float*>(image(k / 32, kTileBytes, k % 32 * 4));
    case FTH_BF16: return to_float(*reinterpret_cast<const bf16*>(image(k / 64, kTileBytes, k % 64 * 2)));
    case FTH_I8: {
      const float scale = reinterpret_cast<const float*>(strip + steps * kTileBytes)[row];
      return scale * float(*reinterpret_cast<const int8_t*>(image(k / 128, kTileBytes, k % 128)));
    }
    case FTH_F8_E4M3: {
      const float scale = reinterpret_cast<const float*>(strip + steps * kTileBytes)[row];
      return scale * low(lower_codes(*image(k / 128, kTileBytes, f8_byte(k % 128))));
    }
    case FTH_Q8_0: {
      constexpr int64_t kStep = kTileBytes + 512;
      const half scale = reinterpret_cast<const half*>(strip + k / 128 * kStep + kTileBytes)[row * 4 + k % 128 / 32];
      return to_float(scale) * float(*reinterpret_cast<const int8_t*>(image(k / 128, kStep, k % 128)));
    }
    default: {
      constexpr int64_t kStep = kTileBytes + 1024;
      const half scale = reinterpret_cast<const half*>(strip + k / 256 * kStep + kTileBytes)[row * 8 + k % 256 / 32];
      const unsigned both = *image(k / 256, kStep, k % 256 / 32 * 16 + k % 16);
      return to_float(scale) * float(int(k % 32 < 16 ? both & 15 : both >> 4) - 8);
    }
  }
}

}  // namespace fth::linear
