// One block per row, or per part of a row of many elements; the parts' sums are added by a second kernel. A thread
// takes four neighbouring elements in turn. Floor: every state read once.
//
// x * y is the same fused chain as x * x where y equals x, which the header promises.
#include "cuda/four.h"
#include "delta/delta.h"

namespace fth::delta {
namespace {

using namespace gpu;

constexpr int kThreads = 128, kWarps = kThreads / 32, kSums = sizeof(fth_delta_stats) / sizeof(float);

__global__ void __launch_bounds__(kThreads) sum_parts(const __grid_constant__ Args a, float* out) {
  const int64_t row = blockIdx.x, first = int64_t(blockIdx.y) * cuda::kPart, end = min(a.width, first + cuda::kPart);
  const float *now = a.now + row * a.width, *before = a.before + row * a.width;
  const float* before2 = a.before2 == nullptr ? before : a.before2 + row * a.width;
  float sum[kSums] = {};
  for (int64_t k = first + threadIdx.x * 4; k < end; k += kThreads * 4) {
    const Four x = load_four(now + k, end - k), y = load_four(before + k, end - k), z = load_four(before2 + k, end - k);
    for (int i = 0; i < 4; i++) {
      const float step = x.v[i] - y.v[i], acceleration = step - (y.v[i] - z.v[i]);
      sum[0] = fmaf(x.v[i], y.v[i], sum[0]);
      sum[1] = fmaf(x.v[i], x.v[i], sum[1]);
      sum[2] = fmaf(y.v[i], y.v[i], sum[2]);
      sum[3] = fmaf(step, step, sum[3]);
      sum[4] = fmaf(acceleration, acceleration, sum[4]);
    }
  }
  float* of_warps = shared_memory<float>();  // [kWarps][kSums]
  for (int s = 0; s < kSums; s++) {
    const float total = warp_sum(sum[s]);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32 * kSums + s] = total;
  }
  __syncthreads();
  if (threadIdx.x < kSums) {
    float total = 0;
    for (int w = 0; w < kWarps; w++) total += of_warps[w * kSums + threadIdx.x];
    if (threadIdx.x == kSums - 1 && a.before2 == nullptr) total = NAN;
    out[(row * gridDim.y + blockIdx.y) * kSums + threadIdx.x] = total;
  }
}

// One warp per row; parts [rows][count][kSums].
__global__ void __launch_bounds__(32) add_parts(const float* parts, int64_t count, float* out) {
  const int64_t row = blockIdx.x;
  for (int s = 0; s < kSums; s++) {
    float sum = 0;
    for (int64_t p = threadIdx.x; p < count; p += 32) sum += parts[(row * count + p) * kSums + s];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) out[row * kSums + s] = sum;
  }
}

}  // namespace

void cuda::rows(const Args& args, int64_t count, fth_delta_stats* partial, Stream stream) {
  const int64_t parts = cuda::parts(args.width);
  float* out = reinterpret_cast<float*>(args.out);
  float* to = parts == 1 ? out : reinterpret_cast<float*>(partial);
  launch(sum_parts, {dim3(unsigned(count), unsigned(parts)), dim3(kThreads), kWarps * kSums * sizeof(float)}, stream,
         args, to);
  if (parts > 1) launch(add_parts, {dim3(unsigned(count)), dim3(32)}, stream, to, parts, out);
}

}  // namespace fth::delta
