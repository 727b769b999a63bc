// A warp per item and head. Floor: 4 bytes read and a word's share written per element.
#include "kv/cuda_write.h"

namespace fth::kv {
namespace {

constexpr int kThreads = 128;

struct Params {
  cuda::Rows rows;
  const int32_t* entry;
  int64_t entry_stride, kv_heads, head_dim, items;  // items: of all heads of a target
  int64_t stride;                                   // floats between items of k and v
  cuda::Targets targets;
  int64_t layers, layer_bytes;
  const float *k, *v;
  float *k_out, *v_out;
};

// The warp's target, item and head; false behind the last one and where there is no entry.
struct Place {
  int64_t target, item, head;
  int32_t entry;

  // The pool from the target's layer on.
  __device__ __forceinline__ cuda::Rows rows(const Params& p) const {
    cuda::Rows of_layer = p.rows;
    of_layer.data += target % p.layers * p.layer_bytes;
    return of_layer;
  }
  __device__ __forceinline__ int64_t floats(const Params& p) const {
    return target * p.targets.stride + item * p.stride + head * p.head_dim;
  }
};
__device__ __forceinline__ bool place_of_warp(const Params& p, Place* at) {
  const int64_t i = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int64_t target = i / p.items, rest = i - target * p.items, item = rest / p.kv_heads;
  if (target >= p.targets.count) return false;
  *at = {target, item, rest - item * p.kv_heads, p.entry[item * p.entry_stride + target / p.layers]};
  return at->entry >= 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads) write_items(const __grid_constant__ Params p) {
  Place at;
  if (!place_of_warp(p, &at)) return;
  const int64_t from = at.floats(p);
  const cuda::Rows rows = at.rows(p);
  char* row = rows.row(at.head, at.entry);
  float* scale = rows.scale(at.head, at.entry);
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
  const cuda::Rows rows = at.rows(p);
  const char* row = rows.row(at.head, at.entry);
  const float* scale = rows.scale(at.head, at.entry);
  const T *k = reinterpret_cast<const T*>(row), *v = reinterpret_cast<const T*>(row + p.rows.v_offset);
  const float k_scale = sizeof(T) == 1 ? scale[0] : 1.f, v_scale = sizeof(T) == 1 ? scale[kPage] : 1.f;
  const int64_t to = at.floats(p);
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
  p.targets = {1, 0};
  p.layers = a.pool.layers;
  p.layer_bytes = p.rows.head_stride * a.pool.kv_heads;
  return p;
}

void run(int32_t type, const Params& p, void (*f32)(Params), void (*b16)(Params), void (*i8)(Params), Stream stream) {
  const int64_t blocks = (p.targets.count * p.items + kThreads / 32 - 1) / (kThreads / 32);
  launch(type == FTH_F32 ? f32 : type == FTH_BF16 ? b16 : i8, {dim3(unsigned(blocks)), dim3(kThreads)}, stream, p);
}

}  // namespace

void cuda::write(const Args& a, int64_t count, const float* k, const float* v, int64_t stride, Stream stream,
                 const Targets& targets) {
  Params p = params_of(a, count, stride);
  p.targets = targets;
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
