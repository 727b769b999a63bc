// Statistics: a warp per row and chunk, whose logits stay in its registers, four chunks of a row to a block. Merging: a
// warp per row. The logits of a piece of the vocabulary are still in the second-level cache when they are read here, so
// the floor is that of the product before.
#include "cuda/four.h"
#include "cuda/order.h"
#include "head/head.h"

namespace fth::head {
namespace {

using namespace gpu;

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kFours = kChunk / 32 / 4;  // of a lane

// The two largest values, as ordered integers: larger ones first, of equal ones the lower id. 0: none yet.
struct Top {
  uint32_t first = 0, second = 0;
  uint32_t first_id = ~0u, second_id = ~0u;

  // After all lower ids, and the largest of them.
  __device__ void add(uint32_t value, uint32_t id) {
    if (value > first) {
      second = first;
      second_id = first_id;
      first = value;
      first_id = id;
    } else if (value > second) {
      second = value;
      second_id = id;
    }
  }
  // Of all lanes, the same in all of them.
  __device__ void merge() {
    const uint32_t largest = __reduce_max_sync(~0u, first);
    const uint32_t id = __reduce_min_sync(~0u, first == largest ? first_id : ~0u);
    const bool taken = first_id == id;
    const uint32_t rest = taken ? second : first, rest_id = taken ? second_id : first_id;
    first = largest;
    first_id = id;
    second = __reduce_max_sync(~0u, rest);
    second_id = __reduce_min_sync(~0u, rest == second ? rest_id : ~0u);
  }
  __device__ float first_value() const { return first == 0 ? -INFINITY : value_of(first); }
  __device__ float second_value() const { return second == 0 ? -INFINITY : value_of(second); }
};

// a - b for a <= b, not below kFarBelow; 0 for equal infinities.
__device__ __forceinline__ float distance(float a, float b) { return a == b ? 0.f : fmaxf(a - b, kFarBelow); }

__device__ __forceinline__ float capped(const Args& a, float z) {
  z *= a.scale;
  return a.softcap > 0 ? a.softcap * tanhf(z / a.softcap) : z;
}

// The chosen logits of a row that lie in its columns [begin, end).
__device__ __forceinline__ void choose(const cuda::Piece& p, int64_t row, const float* z, int64_t begin, int64_t end) {
  for (int64_t c = row * p.chosen + threadIdx.x; c < (row + 1) * p.chosen; c += kThreads) {
    const int64_t column = p.chosen_id[c] - p.args.first;
    if (column >= begin && column < end) p.chosen_logit[c] = capped(p.args, z[column]);
  }
}

__global__ void __launch_bounds__(kThreads) chunk_statistics(const __grid_constant__ cuda::Piece p) {
  const Args& a = p.args;
  const int64_t row = blockIdx.y, block_begin = int64_t(blockIdx.x) * kWarps * kChunk;
  float* z = a.z + row * a.stride;
  if (p.chosen > 0) {
    choose(p, row, z, block_begin, min(a.columns, block_begin + kWarps * kChunk));
    __syncthreads();  // before z changes
  }
  const int64_t begin = block_begin + threadIdx.x / 32 * kChunk, end = min(a.columns, begin + kChunk);
  if (begin >= end) return;
  const int lane = int(threadIdx.x % 32);
  Four value[kFours];
  Top top;
  bool nan = false;
#pragma unroll
  for (int f = 0; f < kFours; f++) {
    const int64_t column = begin + f * 128 + lane * 4;
    value[f] = load_four(z + column, end - column);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (column + i >= end) continue;
      float& v = value[f].v[i];
      v = capped(a, v);
      nan = nan || v != v;
      top.add(ordered(v), uint32_t(a.first + column + i));
    }
    if (p.keep) store_four(z + column, end - column, value[f]);
  }
  top.merge();
  nan = __any_sync(~0u, nan);
  const float largest = top.first_value();
  float sum = 0, slope = 0;
#pragma unroll
  for (int f = 0; f < kFours; f++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (begin + f * 128 + lane * 4 + i >= end) continue;
      const float d = distance(value[f].v[i], largest), e = expf(d);
      sum += e;
      slope = fmaf(d, e, slope);
    }
  }
  sum = warp_sum(sum);
  slope = warp_sum(slope);
  if (lane != 0) return;
  Partial& out = a.partial[row * a.partial_stride + begin / kChunk];
  out.argmax = int32_t(top.first_id);
  out.second = int32_t(top.second_id);
  out.top1 = nan ? NAN : largest;
  out.top2 = top.second_value();
  out.sum = sum;
  out.slope = slope;
}

__global__ void __launch_bounds__(kThreads) cap_logits(const __grid_constant__ Args a, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) a.z[i] = capped(a, a.z[i]);
}

__global__ void __launch_bounds__(kThreads) merge_rows(const Partial* partials, int64_t chunks, int64_t count,
                                                       fth_head_stats* stats) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= count) return;
  const int lane = int(threadIdx.x % 32);
  const Partial* p = partials + row * chunks;
  Top top;
  bool nan = false;
  for (int64_t c = lane; c < chunks; c += 32) {
    nan = nan || p[c].top1 != p[c].top1;
    top.add(ordered(p[c].top1), uint32_t(p[c].argmax));
    if (p[c].second >= 0) top.add(ordered(p[c].top2), uint32_t(p[c].second));
  }
  top.merge();
  nan = __any_sync(~0u, nan);
  float sum = 0, slope = 0;
  for (int64_t c = lane; c < chunks; c += 32) {
    const float d = distance(p[c].top1, top.first_value()), weight = expf(d);
    sum = fmaf(weight, p[c].sum, sum);
    slope = fmaf(weight, fmaf(d, p[c].sum, p[c].slope), slope);
  }
  sum = warp_sum(sum);
  slope = warp_sum(slope);
  if (lane != 0) return;
  const float log_sum = logf(sum);
  fth_head_stats& out = stats[row];
  out.argmax = nan ? 0 : int32_t(top.first_id);
  out.second = nan ? -1 : int32_t(top.second_id);
  out.top1 = nan ? NAN : top.first_value();
  out.top2 = nan ? NAN : top.second_value();
  out.lse = nan ? NAN : top.first_value() + log_sum;
  out.entropy = nan ? NAN : log_sum - slope / sum;
}

}  // namespace

namespace cuda {

void statistics(const Piece& piece, int64_t count, Stream stream) {
  const int64_t chunks = (piece.args.columns + kChunk - 1) / kChunk;
  launch(chunk_statistics, {dim3(unsigned((chunks + kWarps - 1) / kWarps), unsigned(count)), dim3(kThreads)}, stream,
         piece);
}

void cap(const Args& args, int64_t count, Stream stream) {
  launch(cap_logits, {dim3(unsigned((count + kThreads - 1) / kThreads)), dim3(kThreads)}, stream, args, count);
}

void merge(const Partial* partials, int64_t chunks, int64_t count, fth_head_stats* stats, Stream stream) {
  launch(merge_rows, {dim3(unsigned((count + kWarps - 1) / kWarps)), dim3(kThreads)}, stream, partials, chunks, count,
         stats);
}

}  // namespace cuda
}  // namespace fth::head
