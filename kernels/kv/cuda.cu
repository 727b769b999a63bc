// A warp per item and head. Floor: 4 bytes read and a word's share written per element.
#include "cuda/team.h"
#include "kv/cuda_write.h"

namespace fth::kv {
namespace {

__device__ __forceinline__ int64_t number_of_warp() { return int64_t(blockIdx.x) * (kTeam / 32) + threadIdx.x / 32; }

template <class T>
__global__ void __launch_bounds__(kTeam) write_items(const __grid_constant__ Params p) {
  write_item<T>(p, number_of_warp());
}

__device__ __forceinline__ float loaded(float x) { return x; }
__device__ __forceinline__ float loaded(bf16 x) { return to_float(x); }
__device__ __forceinline__ float loaded(int8_t x) { return float(x); }

template <class T>
__global__ void __launch_bounds__(kTeam) read_items(const __grid_constant__ Params p) {
  Place at;
  if (!place_of(p, number_of_warp(), &at)) return;
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
  const int64_t blocks = (p.targets.count * p.items + kTeam / 32 - 1) / (kTeam / 32);
  launch(type == FTH_F32 ? f32 : type == FTH_BF16 ? b16 : i8, {dim3(unsigned(blocks)), dim3(kTeam)}, stream, p);
}

}  // namespace

void cuda::write(const Args& a, int64_t count, const float* k, const float* v, int64_t stride, const Queue& queue,
                 const Targets& targets) {
  Params p = params_of(a, count, stride);
  p.targets = targets;
  p.k = k;
  p.v = v;
  if (queue.tasks != nullptr) return queue.tasks->add(Op::write_kv, Share::row, count, p);
  run(a.pool.type, p, write_items<float>, write_items<bf16>, write_items<int8_t>, queue.stream);
}

void cuda::read(const Args& a, int64_t count, float* k, float* v, Stream stream) {
  Params p = params_of(a, count, a.pool.kv_heads * a.pool.head_dim);
  p.k_out = k;
  p.v_out = v;
  run(a.pool.type, p, read_items<float>, read_items<bf16>, read_items<int8_t>, stream);
}

}  // namespace fth::kv
