// Products of a strip of packed weights (tiles.h), 64 rows of W, with N rows of x, for blocks of 128 threads. The weights
// are the operand of 64 rows, so few rows of x cost no more than the weights' way to the chip. Steps of both operands
// come through a ring in shared memory by asynchronous copies.
//
// Thread t keeps N / 2 of the 64 x N sums: acc[i] is row t / 32 * 16 + t % 32 / 4 + (i & 2) * 4 of the strip and column
// (row of x) i / 4 * 8 + t % 4 * 2 + (i & 1). Every sum is one chain over k, whatever N is.
#pragma once
#include <climits>

#include "cuda/primitives.h"
#include "linear.h"
#include "tiles.h"

namespace fth::linear {
namespace {

using namespace gpu;

constexpr int kThreads = 128;

__device__ __forceinline__ int strip_row(int i) {
  return int(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4) + (i & 2) * 4;
}
__device__ __forceinline__ int column_of(int i) { return i / 4 * 8 + int(threadIdx.x % 4) * 2 + (i & 1); }

// 16 bytes of a tile image.
__device__ __forceinline__ const unsigned char* chunk_of(const unsigned char* image, int row, int chunk) {
  return image + swizzled(uint32_t(row * kTileRowBytes + chunk * 16));
}
__device__ __forceinline__ unsigned char* chunk_of(unsigned char* image, int row, int chunk) {
  return image + swizzled(uint32_t(row * kTileRowBytes + chunk * 16));
}

// x as products read it (Args::x), and which of its rows are the columns: negative ones read as zeros.
struct Columns {
  const char* x;
  int64_t bytes;  // from row to row
  int64_t k;
  const int* row;  // [N], shared memory
};

// ---- element types -------------------------------------------------------------------------------------------------
// Each: kImages, of x per step; kGroups, scales of a row of W per step; load_x, which begins copies of a step of x;
// step, which multiplies one stage of the ring.

template <class P, int N>
struct Stage {
  static constexpr int kX = kTileBytes;                            // images of x
  static constexpr int kScales = kX + P::kImages * N * kTileRowBytes;  // of W
  static constexpr int kXScales = kScales + P::kGroups * kTileRows * 2;
  static constexpr int kBytes = (kXScales + (P::kCodes ? P::kImages * N * 4 : 0) + 1023) / 1024 * 1024;
  static constexpr int kCount = 48 * 1024 / kBytes > 3 ? 48 * 1024 / kBytes : 3;
};

struct F32 {
  static constexpr int32_t kType = FTH_F32;
  static constexpr int kImages = 1, kGroups = 0;
  static constexpr bool kCodes = false;
  using Lora = F32;

  template <int N>
  static __device__ __forceinline__ void load_x(unsigned char* stage, const Columns& x, int64_t step) {
    for (int i = int(threadIdx.x); i < N * 32; i += kThreads) {
      const int column = i / 32, row = x.row[column];
      const int64_t k = step * 32 + i % 32;
      const bool there = row >= 0 && k < x.k;
      copy4_if(there, stage + Stage<F32, N>::kX + swizzled(uint32_t(column * kTileRowBytes + i % 32 * 4)),
               x.x + (there ? row * x.bytes + k * 4 : 0));
    }
  }

  static __device__ __forceinline__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
  }
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], unsigned char* stage) {
    const int row = strip_row(0);
#pragma unroll 2
    for (int chunk = 0; chunk < 8; chunk++) {
      const float4 upper = *reinterpret_cast<const float4*>(chunk_of(stage, row, chunk));
      const float4 lower = *reinterpret_cast<const float4*>(chunk_of(stage, row + 8, chunk));
#pragma unroll
      for (int i = 0; i < N / 2; i += 4)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float4 x =
              *reinterpret_cast<const float4*>(chunk_of(stage + Stage<F32, N>::kX, column_of(i + h), chunk));
          acc[i + h] = dot(upper, x, acc[i + h]);
          acc[i + 2 + h] = dot(lower, x, acc[i + 2 + h]);
        }
    }
  }
};

// Fragments of two neighbouring 32-byte slices of an image's rows: of the warp's 16 rows of W ...
__device__ __forceinline__ void load_rows(uint32_t (&a)[2][4], const unsigned char* image, int chunk) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll
  for (int s = 0; s < 2; s++) load_matrix_x4(a[s], chunk_of(image, row, chunk + 2 * s + lane / 16));
}
// ... and of the eight columns i / 4 * 8 .. of x: b[2 s], b[2 s + 1] are those of slice s.
__device__ __forceinline__ void load_columns(uint32_t (&b)[4], const unsigned char* image, int i, int chunk) {
  const int lane = threadIdx.x % 32;
  load_matrix_x4(b, chunk_of(image, i / 4 * 8 + lane % 8, chunk + lane / 8));
}
template <class T, int Size>
__device__ __forceinline__ T (&four(T (&all)[Size], int i))[4] { return reinterpret_cast<T (&)[4]>(all[i]); }

// Products of the tensor cores that all devices have.
struct Bf16 {
  static constexpr int32_t kType = FTH_BF16;
  static constexpr int kImages = 1, kGroups = 0;
  static constexpr bool kCodes = false;
  using Lora = Bf16;

  template <int N>
  static __device__ __forceinline__ void load_x(unsigned char* stage, const Columns& x, int64_t step) {
    for (int i = int(threadIdx.x); i < N * 8; i += kThreads) {
      const int column = i / 8, row = x.row[column];
      const int64_t k = step * 64 + i % 8 * 8;
      const bool there = row >= 0 && k < x.k;
      copy16_if(there, chunk_of(stage + Stage<Bf16, N>::kX, column, i % 8), x.x + (there ? row * x.bytes + k * 2 : 0));
    }
  }
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], unsigned char* stage) {
#pragma unroll
    for (int chunk = 0; chunk < 8; chunk += 4) {
      uint32_t a[2][4], b[4];
      load_rows(a, stage, chunk);
#pragma unroll
      for (int i = 0; i < N / 2; i += 4) {
        load_columns(b, stage + Stage<Bf16, N>::kX, i, chunk);
        mma_16x8x16(four(acc, i), a[0], b[0], b[1]);
        mma_16x8x16(four(acc, i), a[1], b[2], b[3]);
      }
    }
  }
};

// The same on Hopper: the block's four warps multiply together.
struct Bf16Wide : Bf16 {
  using Lora = Bf16Wide;
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], unsigned char* stage) {
    wgmma_begin();
#pragma unroll
    for (int slice = 0; slice < 4; slice++)
      wgmma_64xNx16<N>(acc, stage + slice * 32, stage + Stage<Bf16, N>::kX + slice * 32);
    wgmma_commit();
    wgmma_wait<0>();
  }
};

// Weights in codes: exact sums of 32 products, or of 128 where a row of W has one scale. Nibbles: 4-bit codes plus 8.
template <int32_t Type, class Wide>
struct Quantised {
  static constexpr int32_t kType = Type;
  static constexpr bool kCodes = true, kNibbles = Type == FTH_Q4_0, kScaled = Type != FTH_I8;
  static constexpr int kImages = kNibbles ? 2 : 1, kGroups = kScaled ? kImages * 4 : 0;
  using Lora = Wide;
  template <int N>
  using StageOf = Stage<Quantised, N>;

  template <int N>
  static __device__ __forceinline__ void load_x(unsigned char* stage, const Columns& x, int64_t step) {
    const int64_t blocks = (x.k + Codes::kSize - 1) / Codes::kSize;
    for (int i = int(threadIdx.x); i < kImages * N * 8; i += kThreads) {
      const int image = i / (N * 8), column = i / 8 % N, row = x.row[column];
      const int64_t block = step * kImages + image;
      const bool there = row >= 0 && block < blocks;
      copy16_if(there, chunk_of(stage + StageOf<N>::kX + image * N * kTileRowBytes, column, i % 8),
                x.x + (there ? row * x.bytes + block * int64_t(sizeof(Codes)) + i % 8 * 16 : 0));
    }
    for (int i = int(threadIdx.x); i < kImages * N; i += kThreads) {
      const int row = x.row[i % N];
      const int64_t block = step * kImages + i / N;
      const bool there = row >= 0 && block < blocks;
      copy4_if(there, stage + StageOf<N>::kXScales + i * 4,
               x.x + (there ? row * x.bytes + block * int64_t(sizeof(Codes)) + Codes::kSize : 0));
    }
  }

  static __device__ __forceinline__ uint32_t low_nibbles(uint32_t v) { return signed_nibbles(v & 0x0f0f0f0f); }
  static __device__ __forceinline__ uint32_t high_nibbles(uint32_t v) { return signed_nibbles(v >> 4 & 0x0f0f0f0f); }
  // Bytes 0 .. 15 minus 8.
  static __device__ __forceinline__ uint32_t signed_nibbles(uint32_t v) {
    return ((v | 0x80808080) - 0x08080808) ^ 0x80808080;
  }
  // Codes of two groups of 32, the first of them number `group` of the step.
  static __device__ __forceinline__ void load_weights(uint32_t (&a)[2][4], const unsigned char* stage, int group) {
    if constexpr (!kNibbles) {
      load_rows(a, stage, group * 2);
    } else {
      const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
      uint32_t both[4];
      load_matrix_x4(both, chunk_of(stage, row, group + lane / 16));
#pragma unroll
      for (int s = 0; s < 2; s++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          a[s][r] = low_nibbles(both[2 * s + r]);
          a[s][r + 2] = high_nibbles(both[2 * s + r]);
        }
    }
  }
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], unsigned char* stage) {
    const half* scales = reinterpret_cast<const half*>(stage + StageOf<N>::kScales);
    const float* x_scales = reinterpret_cast<const float*>(stage + StageOf<N>::kXScales);
#pragma unroll 1
    for (int image = 0; image < kImages; image++) {
      using Sum = std::conditional_t<kScaled, float, int>;
      Sum link[N / 2] = {};  // over 128 k
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        const int group = image * 4 + pair * 2;
        uint32_t a[2][4], b[4];
        load_weights(a, stage, group);
#pragma unroll
        for (int i = 0; i < N / 2; i += 4) {
          load_columns(b, stage + StageOf<N>::kX + image * N * kTileRowBytes, i, pair * 4);
#pragma unroll
          for (int s = 0; s < 2; s++) {
            if constexpr (kScaled) {
              int sum[4] = {};
              mma_16x8x32(sum, a[s], b[2 * s], b[2 * s + 1]);
#pragma unroll
              for (int h = 0; h < 4; h++)
                link[i + h] = fmaf(float(sum[h]), to_float(scales[strip_row(h) * kGroups + group + s]), link[i + h]);
            } else {
              mma_16x8x32(four(link, i), a[s], b[2 * s], b[2 * s + 1]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < N / 2; i++) acc[i] = fmaf(x_scales[image * N + column_of(i)], float(link[i]), acc[i]);
    }
  }
};

// ---- the ring ------------------------------------------------------------------------------------------------------

template <class P, int N>
constexpr int kRingBytes = Stage<P, N>::kBytes * Stage<P, N>::kCount;

// acc += steps [begin, end) of a strip times the columns. The ring is 1024-byte aligned shared memory, free again
// afterwards; the columns' rows were written before a barrier.
template <class P, int N>
__device__ __forceinline__ void multiply(float (&acc)[N / 2], const unsigned char* strip, const Columns& x,
                                         int64_t begin, int64_t end, unsigned char* ring) {
  using S = Stage<P, N>;
  constexpr int kStepBytes = kTileBytes + P::kGroups * kTileRows * 2;
  const auto load = [&](int64_t step, int at) {
    unsigned char* stage = ring + at * S::kBytes;
    const unsigned char* w = strip + step * kStepBytes;
    const int byte = int(threadIdx.x) * 16;
#pragma unroll
    for (int i = 0; i < kTileBytes; i += kThreads * 16) copy16(stage + i + byte, w + i + byte);
    if (byte < P::kGroups * kTileRows * 2) copy16(stage + S::kScales + byte, w + kTileBytes + byte);
    P::template load_x<N>(stage, x, step);
  };
  int fill = 0, drain = 0;
  for (; fill < S::kCount - 1; fill++) {
    if (begin + fill < end) load(begin + fill, fill);
    copy_commit();
  }
#pragma unroll 1
  for (int64_t step = begin; step < end; step++) {
    copy_wait<S::kCount - 2>();
    proxy_fence();
    __syncthreads();  // this stage is there, and all threads are done with the one before
    if (step + S::kCount - 1 < end) load(step + S::kCount - 1, fill);
    copy_commit();
    fill = fill + 1 == S::kCount ? 0 : fill + 1;
    P::template step<N>(acc, ring + drain * S::kBytes);
    drain = drain + 1 == S::kCount ? 0 : drain + 1;
  }
  copy_wait<0>();
  __syncthreads();
}

}  // namespace
}  // namespace fth::linear
