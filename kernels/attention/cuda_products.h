// The two products of attention for sixteen query vectors, by type of K and V. Tiles in shared memory are rows of keys,
// cut into panels 128 bytes wide and swizzled, so that the eight rows a matrix load reads lie in different banks.
//   bf16: tensor cores.  int8: widened to bf16 on the way, which is exact.  f32: fused multiply-adds.
// Within an output, terms add in the order of dims (scores) and keys (values) whichever warp computes it.
#pragma once
#include "attention/cuda_softmax.h"

namespace fth::attention {
namespace {

// Where 16 bytes of a row are in a tile of `Rows` rows of Dim elements.
template <int Rows, int RowBytes>
__device__ __forceinline__ uint32_t place(int row, int chunk) {
  constexpr int kPanel = RowBytes < 128 ? RowBytes : 128, kChunks = kPanel / 16;
  return uint32_t(chunk / kChunks * (Rows * kPanel)) + swizzled(uint32_t(row * kPanel + chunk % kChunks * 16));
}

// What queries are multiplied as.
template <class T> struct QueryOf { using Type = bf16; };
template <> struct QueryOf<float> { using Type = float; };

__device__ __forceinline__ uint32_t pack(float low, float high) { return to_bf16x2(low, high).bits; }
// Bytes i and j of a word, as bf16. Beside 2^23 the last bit of a number is worth 1.
__device__ __forceinline__ uint32_t widened(uint32_t word, int i, int j) {
  const uint32_t biased = word ^ 0x80808080u;
  const auto number = [&](int at) { return __uint_as_float(0x4b000000u | (biased >> 8 * at & 0xff)) - 8388736.f; };
  return pack(number(i), number(j));
}

template <class T, int Dim>
struct Products {
  using Query = typename QueryOf<T>::Type;
  static constexpr int kRowBytes = Dim * int(sizeof(T)), kSideBytes = int(kChunk) * kRowBytes;
  static constexpr int kQueryBytes = Dim * int(sizeof(Query));  // of one

  // Queries [Rows] x [Dim]: dims d, d + 1 (d even) of a query. int8: within sixteen dims those of a lane's four bytes
  // are where the product wants the lane's.
  template <int Rows>
  static __device__ __forceinline__ void put_query(char* q, int row, int d, float x0, float x1) {
    if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<float2*>(q + place<Rows, kQueryBytes>(row, d / 4) + d % 4 * 4) = {x0, x1};
    } else {
      const int at = sizeof(T) == 2 ? d : d / 16 * 16 + d % 16 / 4 * 2 + d % 4 / 2 * 8;
      *reinterpret_cast<uint32_t*>(q + place<Rows, kQueryBytes>(row, at / 8) + at % 8 * 2) = pack(x0, x1);
    }
  }

  // s += queries [first, first + 16) x keys [key, key + 16).
  template <int Rows>
  static __device__ __forceinline__ void scores(const char* q, int first, const char* k, int key, float (&s)[2][4]) {
    const int lane = threadIdx.x % 32;
    if constexpr (sizeof(T) == 4) {
      const int row = first + lane / 4, column = key + lane % 4 * 2;
      const auto four = [&](const char* tile, uint32_t at) { return *reinterpret_cast<const float4*>(tile + at); };
#pragma unroll 2
      for (int c = 0; c < Dim / 4; c++) {
        const float4 q0 = four(q, place<Rows, kQueryBytes>(row, c)), q1 = four(q, place<Rows, kQueryBytes>(row + 8, c));
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const float4 x = four(k, place<int(kChunk), kRowBytes>(column + 8 * j + e, c));
            s[j][e] = fmaf(q0.w, x.w, fmaf(q0.z, x.z, fmaf(q0.y, x.y, fmaf(q0.x, x.x, s[j][e]))));
            s[j][2 + e] = fmaf(q1.w, x.w, fmaf(q1.z, x.z, fmaf(q1.y, x.y, fmaf(q1.x, x.x, s[j][2 + e]))));
          }
      }
    } else {
      const auto query = [&](uint32_t (&a)[4], int step) {
        load_matrix_x4(a, q + place<Rows, kQueryBytes>(first + lane % 16, 2 * step + lane / 16));
      };
      const int row = key + lane / 16 * 8 + lane % 8, half = lane / 8 % 2;
#pragma unroll 2
      for (int step = 0; step < Dim / 16; step += sizeof(T) == 1 ? 2 : 1) {
        uint32_t a[4], b[4];
        query(a, step);
        load_matrix_x4(b, k + place<int(kChunk), kRowBytes>(row, (sizeof(T) == 1 ? step : 2 * step) + half));
        if constexpr (sizeof(T) == 2) {
          mma_16x8x16(s[0], a, b[0], b[1]);
          mma_16x8x16(s[1], a, b[2], b[3]);
        } else {
          mma_16x8x16(s[0], a, widened(b[0], 0, 1), widened(b[0], 2, 3));
          mma_16x8x16(s[1], a, widened(b[2], 0, 1), widened(b[2], 2, 3));
          query(a, step + 1);
          mma_16x8x16(s[0], a, widened(b[1], 0, 1), widened(b[1], 2, 3));
          mma_16x8x16(s[1], a, widened(b[3], 0, 1), widened(b[3], 2, 3));
        }
      }
    }
  }

  // Weights as the product reads them: of 16 keys each, in bf16.
  using Weights = uint32_t[int(kChunk) / 16][4];

  // out[n] += weights x dims [dim + 8 n, + 8) of V. Apart: not all rows see the same of these keys, and V has numbers
  // that are not finite; the product takes them as zeros, and each comes to the rows that see it by itself (infinite or
  // not a number, it leaves the same as in a product). bits[e]: which of the lane's columns row e sees.
  template <int Tiles, bool Apart>
  static __device__ __forceinline__ void values(const Weights& w, const char* v, int dim, float (&out)[Tiles][4],
                                                const uint32_t (&bits)[2]) {
    static_assert(sizeof(T) < 4 && Tiles % 2 == 0, "pairs of tiles");
    const int lane = threadIdx.x % 32;
    if constexpr (sizeof(T) == 1) {
#pragma unroll
      for (int two = 0; two < int(kChunk) / 32; two++)
#pragma unroll
        for (int n = 0; n < Tiles; n += 2) {
          uint32_t b[4];
          load_matrix_x4_transposed(b, v + place<int(kChunk), kRowBytes>(32 * two + lane, dim / 16 + n / 2));
#pragma unroll
          for (int i = 0; i < 2; i++) {
            mma_16x8x16(out[n], w[2 * two + i], widened(b[2 * i], 0, 2), widened(b[2 * i + 1], 0, 2));
            mma_16x8x16(out[n + 1], w[2 * two + i], widened(b[2 * i], 1, 3), widened(b[2 * i + 1], 1, 3));
          }
        }
    } else {
#pragma unroll
      for (int step = 0; step < int(kChunk) / 16; step++)
#pragma unroll
        for (int n = 0; n < Tiles; n += 2) {
          uint32_t b[4];
          load_matrix_x4_transposed(
              b, v + place<int(kChunk), kRowBytes>(16 * step + lane % 16, dim / 8 + n + lane / 16));
          if constexpr (Apart)
#pragma unroll
            for (int i = 0; i < 4; i++)
              b[i] &= (infinite(b[i]) ? 0u : 0xffffu) | (infinite(b[i] >> 16) ? 0u : 0xffff0000u);
          mma_16x8x16(out[n], w[step], b[0], b[1]);
          mma_16x8x16(out[n + 1], w[step], b[2], b[3]);
        }
      if constexpr (Apart) add_infinite(w, v, dim, out, bits);
    }
  }
  static __device__ __forceinline__ bool infinite(uint32_t bf16_bits) { return (bf16_bits & 0x7f80u) == 0x7f80u; }
  template <int Tiles>
  static __device__ __forceinline__ void add_infinite(const Weights& w, const char* v, int dim, float (&out)[Tiles][4],
                                                      const uint32_t (&bits)[2]) {
    const int lane = threadIdx.x % 32, column = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kKeyTiles; j++)
#pragma unroll 1
      for (int key = 0; key < 8; key++) {
        float weight[2];
        bool seen[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int owner = lane / 4 * 4 + key / 2, at = 2 * j + key % 2;
          const uint32_t two = __shfl_sync(~0u, w[j / 2][j % 2 * 2 + e], owner);
          weight[e] = key % 2 == 0 ? low(bf16x2{two}) : high(bf16x2{two});
          seen[e] = __shfl_sync(~0u, bits[e], owner) >> at & 1;
        }
#pragma unroll
        for (int n = 0; n < Tiles; n++) {
          const uint32_t x = *reinterpret_cast<const uint32_t*>(
              v + place<int(kChunk), kRowBytes>(8 * j + key, dim / 8 + n) + column * 2);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const uint32_t number = i % 2 == 0 ? x & 0xffff : x >> 16;
            if (infinite(number) && seen[i / 2]) out[n][i] += weight[i / 2] * to_float(bf16{uint16_t(number)});
          }
        }
      }
  }

  // The same of f32, from weights [16][stride] in shared memory, negative where a row does not see.
  template <int Tiles>
  static __device__ __forceinline__ void values(const float* weight, int stride, const char* v, int dim,
                                                float (&out)[Tiles][4]) {
    const int lane = threadIdx.x % 32;
    const float* w = weight + lane / 4 * stride;
    for (int key = 0; key < int(kChunk); key++) {
      const float w0 = w[key], w1 = w[8 * stride + key];
      const bool seen0 = !(w0 < 0), seen1 = !(w1 < 0);
#pragma unroll
      for (int n = 0; n < Tiles; n++) {
        const int d = dim + 8 * n + lane % 4 * 2;
        const float2 x =
            *reinterpret_cast<const float2*>(v + place<int(kChunk), kRowBytes>(key, d / 4) + d % 4 * 4);
        if (seen0) {
          out[n][0] = fmaf(w0, x.x, out[n][0]);
          out[n][1] = fmaf(w0, x.y, out[n][1]);
        }
        if (seen1) {
          out[n][2] = fmaf(w1, x.x, out[n][2]);
          out[n][3] = fmaf(w1, x.y, out[n][3]);
        }
      }
    }
  }

  // The dim of out[n][i] (i even or odd alike), counted from the first.
  static __device__ __forceinline__ int dim_of(int n, int i) {
    const int c = threadIdx.x % 4, e = i % 2;
    return sizeof(T) == 1 ? n / 2 * 16 + 4 * c + 2 * e + n % 2 : n * 8 + 2 * c + e;
  }
};

}  // namespace
}  // namespace fth::attention
