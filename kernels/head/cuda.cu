// Statistics of logits that are in memory, and the merge of all chunks of a row, whoever made their partials (with the
// products themselves: cuda90.cu). Chunks: a block takes 32 of a row through shared memory. The logits of a piece
// of the vocabulary are still in the second-level cache then, so the floor is that of the product before. Merging: a
// block per row, in a fixed order.
#include "cuda/four.h"
#include "cuda_statistics.h"

namespace fth::head {
namespace {

constexpr int kThreads = 128, kChunks = kThreads / 4;  // of a block
constexpr int64_t kColumns = kChunks * cuda::kChunk;

__global__ void __launch_bounds__(kThreads) chunk_statistics(const __grid_constant__ cuda::Piece p) {
  const Args& a = p.args;
  float* z = shared_memory<float>();
  const int64_t row = blockIdx.y, begin = blockIdx.x * kColumns, end = min(a.columns, begin + kColumns);
  const auto at = [=](int64_t column) { return z + (column - begin) / cuda::kChunk * kPitch + column % cuda::kChunk; };
  for (int64_t column = begin + threadIdx.x * 4; column < end; column += kThreads * 4) {
    float* from = a.z + row * a.stride + column;
    Four v = load_four(from, end - column);
    *reinterpret_cast<float4*>(at(column)) = make_float4(v.v[0], v.v[1], v.v[2], v.v[3]);
    if (!p.keep) continue;
    for (float& logit : v.v) logit = capped(a, logit);
    store_four(from, end - column, v);
  }
  __syncthreads();
  for (int64_t c = row * p.chosen + threadIdx.x; c < (row + 1) * p.chosen; c += kThreads) {
    const int64_t column = p.chosen_id[c] - a.first;
    if (column >= begin && column < end) p.chosen_logit[c] = capped(a, *at(column));
  }
  partials(a, z, kChunks, int(threadIdx.x), kThreads, [&](int chunk) {
    const int64_t first = begin + chunk * cuda::kChunk;
    return Chunk{end - first, a.first + first, a.partial + row * a.partial_stride + first / cuda::kChunk};
  });
}

__global__ void __launch_bounds__(kThreads) cap_logits(const __grid_constant__ Args a, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) a.z[i] = capped(a, a.z[i]);
}

constexpr int kMergeThreads = 256, kMergeWarps = kMergeThreads / 32;

// What warps of a block find.
struct OfWarps {
  Top top[kMergeWarps];
  float sum[kMergeWarps], slope[kMergeWarps];
};

__global__ void __launch_bounds__(kMergeThreads) merge_rows(const Partial* partials, int64_t chunks,
                                                            fth_head_stats* stats) {
  OfWarps& all = *shared_memory<OfWarps>();
  const int warp = int(threadIdx.x / 32);
  dependents_wait();
  const Partial* p = partials + blockIdx.x * chunks;
  Top top;
  bool nan = false;
#pragma unroll 4
  for (int64_t c = threadIdx.x; c < chunks; c += kMergeThreads) {
    nan = nan || p[c].top1 != p[c].top1;
    top.add(ordered(p[c].top1), uint32_t(p[c].argmax));
    if (p[c].second >= 0) top.add(ordered(p[c].top2), uint32_t(p[c].second));
  }
  for (int bit = 1; bit < 32; bit *= 2) top.merge_lanes(bit);
  if (threadIdx.x % 32 == 0) all.top[warp] = top;
  nan = group_any(1, kMergeThreads, nan);
  top = all.top[0];
  for (int w = 1; w < kMergeWarps; w++) top.merge(all.top[w]);
  float sum = 0, slope = 0;
#pragma unroll 4
  for (int64_t c = threadIdx.x; c < chunks; c += kMergeThreads) {
    const float d = distance(p[c].top1, top.first_value()), weight = expf(d);
    sum = fmaf(weight, p[c].sum, sum);
    slope = fmaf(weight, fmaf(d, p[c].sum, p[c].slope), slope);
  }
  sum = warp_sum(sum);
  slope = warp_sum(slope);
  if (threadIdx.x % 32 == 0) {
    all.sum[warp] = sum;
    all.slope[warp] = slope;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kMergeWarps; w++) {
    sum += all.sum[w];
    slope += all.slope[w];
  }
  const float log_sum = logf(sum);
  fth_head_stats& out = stats[blockIdx.x];
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
  const int64_t blocks = (piece.args.columns + kColumns - 1) / kColumns;
  launch(chunk_statistics,
         {dim3(unsigned(blocks), unsigned(count)), dim3(kThreads), size_t(kChunks * kPitch * sizeof(float))}, stream,
         piece);
}

void cap(const Args& args, int64_t count, Stream stream) {
  launch(cap_logits, {dim3(unsigned((count + kThreads - 1) / kThreads)), dim3(kThreads)}, stream, args, count);
}

void merge(const Partial* partials, int64_t chunks, int64_t count, fth_head_stats* stats, Stream stream) {
  launch(merge_rows, {dim3(unsigned(count)), dim3(kMergeThreads), sizeof(OfWarps), false, true}, stream, partials,
         chunks, stats);
}

}  // namespace cuda
}  // namespace fth::head
