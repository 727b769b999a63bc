// Element types and layouts of the CUDA kernels that need no instruction of their own.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fth::gpu {

struct bf16 { uint16_t bits; };
struct bf16x2 { uint32_t bits; };          // low half first
struct alignas(16) bf16x8 { bf16 v[8]; };  // one 16-byte access
struct half { uint16_t bits; };            // IEEE fp16: scales of quantised blocks

__host__ __device__ __forceinline__ float to_float(bf16 v) {
  union { uint32_t u; float f; } c;
  c.u = uint32_t(v.bits) << 16;
  return c.f;
}
__host__ __device__ __forceinline__ float low(bf16x2 v) { return to_float(bf16{uint16_t(v.bits)}); }
__host__ __device__ __forceinline__ float high(bf16x2 v) { return to_float(bf16{uint16_t(v.bits >> 16)}); }

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// A tile image: rows of 128 bytes, 1024-byte aligned; bits 4..6 of a byte's address are xor-ed with bits 7..9, so that
// ldmatrix and wgmma read columns without bank conflicts. Global memory holds tiles in this form, and a bulk copy moves
// one as it is.
constexpr int kTileRows = 64, kTileRowBytes = 128, kTileBytes = kTileRows * kTileRowBytes;
__host__ __device__ __forceinline__ uint32_t swizzled(uint32_t byte) { return byte ^ (byte >> 3 & 0x70); }

// The stream's handle as the C interface has it.
using Stream = void*;

}  // namespace fth::gpu
