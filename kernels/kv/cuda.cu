// A warp per item and head: its lanes hold the side in words of 4 bytes (one f32, two bf16, four int8), so that each
// access of the pool is of whole lines. Floor: 4 bytes read and a word's share written per element.
#include "kv/cuda.h"

namespace fth::kv {
namespace {

using namespace gpu;

constexpr int kThreads = 128;

struct Params {
  cuda::Rows rows;
  const int32_t* entry;
  int64_t entry_stride, kv_heads, head_dim, items;  // items: of all heads
  int64_t stride;                                   // floats between items of k and v
  const float *k, *v;
  float *k_out, *v_out;
};

// The warp's item and head; false behind the last one.
struct Place {
  int64_t item, head;
  int32_t entry;
};
__device__ __forceinline__ bool place_of_warp(const Params& p, Place* at) {
  const int64_t i = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
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

template <class T>
__global__ void __launch_bounds__(kThreads) write_items(const __grid_constant__ Params p) {
  Place at;
  if (!place_of_warp(p, &at)) return;
  const int64_t from = at.item * p.stride + at.head * p.head_dim;
  char* row = p.rows.row(at.head, at.entry);
  float* scale = p.rows.scale(at.head, at.entry);
  const int head_dim = int(p.head_dim), row_bytes = int(p.rows.row_bytes);
  write_side<T>(p.k + from, head_dim, row_bytes, row, scale);
  write_side<T>(p.v + from, head_dim, row_bytes, row + p.rows.v_offset, scale + kPage);
}

__device__ __forceinline__ float loaded(float x) { return x; }
__device__ __forceinline__ float loaded(bf16 x) { return to_float(x); }
__device__ __forceinline__ float loaded(int8_t x) { return float(x); }

template <class T>
__global__ void __launch_bounds__(kThreads) read_items(const __grid_constant__ Params p) {
  Place at;
  if (!place_of_warp(p, &at)) return;
  const char* row = p.rows.row(at.head, at.entry);
  const float* scale = p.rows.scale(at.head, at.entry);
  const T *k = reinterpret_cast<const T*>(row), *v = reinterpret_cast<const T*>(row + p.rows.v_offset);
  const float k_scale = sizeof(T) == 1 ? scale[0] : 1.f, v_scale = sizeof(T) == 1 ? scale[kPage] : 1.f;
  const int64_t to = at.item * p.stride + at.head * p.head_dim;
  for (int d = threadIdx.x % 32; d < p.head_dim; d += 32) {
    p.k_out[to + d] = k_scale * loaded(k[d]);
    p.v_out[to + d] = v_scale * loaded(v[d]);
  }
}

Params params_of(const Args& a, int64_t count, int64_t stride) {
  Params p{};
  p.rows = cuda::rows_of(a.pool, a.layer);
  p.entry = a.entry;
  p.entry_stride = a.entry_stride;
  p.kv_heads = a.pool.kv_heads;
  p.head_dim = a.pool.head_dim;
  p.items = count * a.pool.kv_heads;
  p.stride = stride;
  return p;
}

void run(int32_t type, const Params& p, void (*f32)(Params), void (*b16)(Params), void (*i8)(Params), Stream stream) {
  const int64_t blocks = (p.items + kThreads / 32 - 1) / (kThreads / 32);
  launch(type == FTH_F32 ? f32 : type == FTH_BF16 ? b16 : i8, {dim3(unsigned(blocks)), dim3(kThreads)}, stream, p);
}

}  // namespace

void cuda::write(const Args& a, int64_t count, const float* k, const float* v, int64_t stride, Stream stream) {
  Params p = params_of(a, count, stride);
  p.k = k;
  p.v = v;
  run(a.pool.type, p, write_items<float>, write_items<bf16>, write_items<int8_t>, stream);
}

void cuda::read(const Args& a, int64_t count, float* k, float* v, Stream stream) {
  Params p = params_of(a, count, a.pool.kv_heads * a.pool.head_dim);
  p.k_out = k;
  p.v_out = v;
  run(a.pool.type, p, read_items<float>, read_items<bf16>, read_items<int8_t>, stream);
}

}  // namespace fth::kv
