// Products of a strip of packed weights (tiles.h), 64 rows of W, with N rows of x, by 128 threads. The weights are the
// operand of 64 rows, so few rows of x cost no more than the weights' way to the chip. Steps of both operands come
// through a ring of stages in shared memory.
//
// Thread t of the 128 keeps N / 2 of the 64 x N sums: acc[i] is row t / 32 * 16 + t % 32 / 4 + (i & 2) * 4 of the strip
// and column (row of x) i / 4 * 8 + t % 4 * 2 + (i & 1). Every sum is one chain over k, whatever N is.
#pragma once
#include "cuda/primitives.h"
#include "cuda_tiles.h"
#include "linear.h"

namespace fth::linear {
namespace {

using namespace gpu;

__device__ __forceinline__ int strip_row(int i) {
  return int(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4) + (i & 2) * 4;
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
  __device__ __forceinline__ int64_t units() const { return (k + kCodeUnit - 1) / kCodeUnit; }
};

// One step of the operands in shared memory.
struct Operands {
  unsigned char *w, *x;  // images
  const half* w_scales;
  float* x_scales;
};
// A stage of the ring: images of Strips strips, of x, scales of W, of x.
template <class P, int N, int Strips = 1>
struct Stage {
  static constexpr int kX = Strips * kTileBytes;
  static constexpr int kScales = kX + P::kImages * N * kTileRowBytes, kScaleBytes = P::kGroups * kTileRows * 2;
  static constexpr int kXScales = kScales + kScaleBytes;
  static constexpr int kBytes = (kXScales + (P::kCodes ? P::kImages * N * 4 : 0) + 1023) / 1024 * 1024;
  static constexpr int kStepBytes = kTileBytes + kScaleBytes;  // of a strip in memory
  static_assert(Strips == 1 || P::kGroups == 0, "scales of one strip");

  static __device__ __forceinline__ Operands of(unsigned char* stage, int strip = 0) {
    return {stage + strip * kTileBytes, stage + kX, reinterpret_cast<const half*>(stage + kScales),
            reinterpret_cast<float*>(stage + kXScales)};
  }
};

// ---- element types -------------------------------------------------------------------------------------------------
// Each: kImages, of x per step; kGroups, scales of a row of W per step; kScaled, whether the row has one for all of k;
// kUnit, steps that no split divides; load_x, by which `Threads` threads begin copies of a step of x; step, which
// multiplies one. kWide: it only begins to, and the operands are in use until it is waited for. kColumns: the most that
// the stream kernel takes at once, with two strips if more than 128.

struct F32 {
  static constexpr int32_t kType = FTH_F32;
  static constexpr int kImages = 1, kGroups = 0;
  static constexpr int kUnit = 1;
  static constexpr bool kCodes = false, kWide = false, kScaled = false;
  using Lora = F32;

  template <int N, int Threads>
  static __device__ __forceinline__ void load_x(const Operands& to, const Columns& x, int64_t step, int thread) {
    for (int i = thread; i < N * 32; i += Threads) {
      const int column = i / 32, row = x.row[column];
      const int64_t k = step * 32 + i % 32;
      const bool there = row >= 0 && k < x.k;
      copy4_if(there, to.x + swizzled(uint32_t(column * kTileRowBytes + i % 32 * 4)),
               x.x + (there ? row * x.bytes + k * 4 : 0));
    }
  }

  static __device__ __forceinline__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
  }
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], const Operands& from) {
    const int row = strip_row(0);
#pragma unroll 2
    for (int chunk = 0; chunk < 8; chunk++) {
      const float4 upper = *reinterpret_cast<const float4*>(chunk_of(from.w, row, chunk));
      const float4 lower = *reinterpret_cast<const float4*>(chunk_of(from.w, row + 8, chunk));
#pragma unroll
      for (int i = 0; i < N / 2; i += 4)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float4 x = *reinterpret_cast<const float4*>(chunk_of(from.x, column_of(i + h), chunk));
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

// x in bf16, 64 k per image.
template <int Images>
struct RowsOfBf16 {
  static constexpr int kImages = Images, kGroups = 0;
  static constexpr bool kCodes = false;

  template <int N, int Threads>
  static __device__ __forceinline__ void load_x(const Operands& to, const Columns& x, int64_t step, int thread) {
#pragma unroll 4
    for (int i = thread; i < Images * N * 8; i += Threads) {
      const int image = i / (N * 8), column = i / 8 % N, row = x.row[column];
      const int64_t k = (step * Images + image) * 64 + i % 8 * 8;
      const bool there = row >= 0 && k < x.k;
      copy16_if(there, chunk_of(to.x + image * N * kTileRowBytes, column, i % 8),
                x.x + (there ? row * x.bytes + k * 2 : 0));
    }
  }
};

// Products of the tensor cores that all devices have.
struct Bf16 : RowsOfBf16<1> {
  static constexpr int32_t kType = FTH_BF16;
  static constexpr int kUnit = 2;
  static constexpr bool kWide = false, kScaled = false;
  using Lora = Bf16;

  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], const Operands& from) {
#pragma unroll
    for (int chunk = 0; chunk < 8; chunk += 4) {
      uint32_t a[2][4], b[4];
      load_rows(a, from.w, chunk);
#pragma unroll
      for (int i = 0; i < N / 2; i += 4) {
        load_columns(b, from.x, i, chunk);
        mma_16x8x16(four(acc, i), a[0], b[0], b[1]);
        mma_16x8x16(four(acc, i), a[1], b[2], b[3]);
      }
    }
  }
};

// The same on Hopper: the block's four warps multiply together.
struct Bf16Wide : Bf16 {
  static constexpr bool kWide = true;
  static constexpr int kColumns = 256;
  using Lora = Bf16Wide;
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], const Operands& from) {
    wgmma_begin();
#pragma unroll
    for (int slice = 0; slice < 4; slice++)
      wgmma_64xNx16<N>(acc, from.w + slice * 32, from.x + slice * 32);
    wgmma_commit();
  }
};

// FP8 weights: those products of bf16 which bf16 weights have, in the same order, on weights that become bf16 on their
// way to the registers.
struct F8 : RowsOfBf16<2> {
  static constexpr int32_t kType = FTH_F8_E4M3;
  static constexpr int kUnit = 1;
  static constexpr bool kWide = false, kScaled = true;
  using Lora = Bf16;

  // Fragments of two neighbouring slices of 16 k, from bytes in the order of f8_byte.
  static __device__ __forceinline__ void load_weights(uint32_t (&a)[2][4], const unsigned char* image, int chunk) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
    uint32_t codes[4];
    load_matrix_x4(codes, chunk_of(image, row, chunk + lane / 16));
#pragma unroll
    for (int s = 0; s < 2; s++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        a[s][r] = lower_codes(codes[2 * s + r]).bits;
        a[s][r + 2] = upper_codes(codes[2 * s + r]).bits;
      }
  }
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], const Operands& from) {
#pragma unroll
    for (int chunk = 0; chunk < 8; chunk += 2) {
      uint32_t a[2][4], b[4];
      load_weights(a, from.w, chunk);
#pragma unroll
      for (int i = 0; i < N / 2; i += 4) {
        load_columns(b, from.x + chunk / 4 * N * kTileRowBytes, i, chunk * 2 % 8);
        mma_16x8x16(four(acc, i), a[0], b[0], b[1]);
        mma_16x8x16(four(acc, i), a[1], b[2], b[3]);
      }
    }
  }
};

// The same on Hopper. The fragments of half a step are made while the other half is multiplied.
struct F8Wide : F8 {
  static constexpr bool kWide = true;
  static constexpr int kColumns = 128;
  using Lora = Bf16Wide;
  template <int N>
  static __device__ __forceinline__ void step(float (&acc)[N / 2], const Operands& from) {
    uint32_t first[2][2][4], second[2][2][4];
    begin<N>(acc, first, from, 0);
    wgmma_wait<1>();  // the second half of the step before, whose registers are free again
    begin<N>(acc, second, from, 1);
  }
  template <int N>
  static __device__ __forceinline__ void begin(float (&acc)[N / 2], uint32_t (&a)[2][2][4], const Operands& from,
                                               int half) {
#pragma unroll
    for (int pair = 0; pair < 2; pair++) load_weights(a[pair], from.w, half * 4 + pair * 2);
    wgmma_begin();
#pragma unroll
    for (int slice = 0; slice < 4; slice++)
      wgmma_64xNx16<N>(acc, a[slice / 2][slice % 2], from.x + half * N * kTileRowBytes + slice * 32);
    wgmma_commit();
  }
};

// Weights in codes: exact sums of 32 products, or of 128 where a row of W has one scale. Nibbles: 4-bit codes plus 8.
template <int32_t Type, class Wide>
struct Quantised {
  static constexpr int32_t kType = Type;
  static constexpr bool kCodes = true, kWide = false, kNibbles = Type == FTH_Q4_0, kScaled = Type == FTH_I8;
  static constexpr int kImages = kNibbles ? 2 : 1, kGroups = kScaled ? 0 : kImages * 4, kColumns = 64, kUnit = 1;
  static constexpr int64_t kSpan = span_of(Type);
  using Lora = Wide;

  template <int N, int Threads>
  static __device__ __forceinline__ void load_x(const Operands& to, const Columns& x, int64_t step, int thread) {
    // Unit `unit` of a row, and the bytes from its codes' span to the span's scales.
    const int64_t all = x.units();
    const auto span_begin = [](int64_t unit) { return unit / kSpan * kSpan; };
    const auto scales = [&](int64_t begin) { return (all - begin < kSpan ? all - begin : kSpan) * kCodeUnit; };
    for (int i = thread; i < kImages * N * 8; i += Threads) {
      const int image = i / (N * 8), column = i / 8 % N, row = x.row[column];
      const int64_t unit = step * kImages + image, begin = span_begin(unit);
      const int64_t at = begin * kUnitBytes + (unit - begin) * kCodeUnit + i % 8 * 16;
      const bool there = row >= 0 && unit < all;
      copy16_if(there, chunk_of(to.x + image * N * kTileRowBytes, column, i % 8),
                x.x + (there ? row * x.bytes + at : 0));
    }
    for (int i = thread; i < kImages * N; i += Threads) {
      const int row = x.row[i % N];
      const int64_t unit = step * kImages + i / N, begin = span_begin(unit);
      const int64_t at = begin * kUnitBytes + scales(begin) + (unit - begin) * int64_t(sizeof(Scale));
      const bool there = row >= 0 && unit < all;
      copy4_if(there, to.x_scales + i, x.x + (there ? row * x.bytes + at : 0));
    }
  }

  // Integer sums start at the bits of 1.5 * 2^23, whose last place is one: those below 2^22 become numbers by a
  // subtraction, of which a multiprocessor does eight times as many as conversions.
  static constexpr int kZero = 0x4b400000;
  static __device__ __forceinline__ float value(int sum) { return __int_as_float(sum) - 12582912.f; }

  static __device__ __forceinline__ uint32_t low_nibbles(uint32_t v) { return signed_nibbles(v & 0x0f0f0f0f); }
  static __device__ __forceinline__ uint32_t high_nibbles(uint32_t v) { return signed_nibbles(v >> 4 & 0x0f0f0f0f); }
  // Bytes 0 .. 15 minus 8.
  static __device__ __forceinline__ uint32_t signed_nibbles(uint32_t v) {
    return ((v | 0x80808080) - 0x08080808) ^ 0x80808080;
  }
  // Codes of two groups of 32, the first of them number `group` of the step.
  static __device__ __forceinline__ void load_weights(uint32_t (&a)[2][4], const unsigned char* w, int group) {
    if constexpr (!kNibbles) {
      load_rows(a, w, group * 2);
    } else {
      const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
      uint32_t both[4];
      load_matrix_x4(both, chunk_of(w, row, group + lane / 16));
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
  static __device__ __forceinline__ void step(float (&acc)[N / 2], const Operands& from) {
#pragma unroll 1
    for (int image = 0; image < kImages; image++) {
      using Sum = std::conditional_t<kScaled, int, float>;
      Sum link[N / 2];  // over 128 k
#pragma unroll
      for (int i = 0; i < N / 2; i++) link[i] = kScaled ? kZero : 0;
#pragma unroll (kNibbles && N == 64 ? 1 : 2)  // with both there are too few registers
      for (int pair = 0; pair < 2; pair++) {
        const int group = image * 4 + pair * 2;
        uint32_t a[2][4], b[4];
        load_weights(a, from.w, group);
        float scale[2][2] = {};  // of the two groups, of the thread's two rows
        if constexpr (!kScaled) {
#pragma unroll
          for (int s = 0; s < 2; s++)
#pragma unroll
            for (int r = 0; r < 2; r++)
              scale[s][r] = to_float(from.w_scales[strip_row(2 * r) * kGroups + group + s]);
        }
#pragma unroll
        for (int i = 0; i < N / 2; i += 4) {
          load_columns(b, from.x + image * N * kTileRowBytes, i, pair * 4);
#pragma unroll
          for (int s = 0; s < 2; s++) {
            if constexpr (!kScaled) {
              int sum[4] = {kZero, kZero, kZero, kZero};
              mma_16x8x32(sum, a[s], b[2 * s], b[2 * s + 1]);
#pragma unroll
              for (int h = 0; h < 4; h++) link[i + h] = fmaf(value(sum[h]), scale[s][h / 2], link[i + h]);
            } else {
              mma_16x8x32(four(link, i), a[s], b[2 * s], b[2 * s + 1]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < N / 2; i++) {
        float t;
        if constexpr (kScaled) t = value(link[i]);
        else t = link[i];
        acc[i] = fmaf(from.x_scales[image * N + column_of(i)], t, acc[i]);
      }
    }
  }
};

}  // namespace
}  // namespace fth::linear
