// One block per row (several where rows are wide), four floats per thread and turn. Floor: every row read and written
// once, with scatter_add its target read as well.
#include "compact/compact.h"
#include "cuda/four.h"

namespace fth::compact {
namespace {

using namespace gpu;

constexpr int kThreads = 128, kMostBlocks = 64;  // of a row

enum Move { kGather, kScatter, kAdd };

template <Move Kind>
__global__ void __launch_bounds__(kThreads) move_rows(const int32_t* index, const float* gate, const float* from,
                                                      float* to, int64_t width, const int32_t* live) {
  const int64_t row = blockIdx.x;
  if (live != nullptr && row >= *live) return;
  const int64_t other = index[row];
  from += (Kind == kGather ? other : row) * width;
  to += (Kind == kGather ? row : other) * width;
  const float g = Kind == kAdd && gate != nullptr ? gate[row] : 1.f;
  const int64_t step = int64_t(gridDim.y) * kThreads * 4;
  for (int64_t k = (int64_t(blockIdx.y) * kThreads + threadIdx.x) * 4; k < width; k += step) {
    Four v = load_four(from + k, width - k);
    if (Kind == kAdd) {
      const Four x = load_four(to + k, width - k);
      for (int i = 0; i < 4; i++) v.v[i] = __fadd_rn(x.v[i], __fmul_rn(g, v.v[i]));
    }
    store_four(to + k, width - k, v);
  }
}

Grid grid(int64_t width, int64_t count) {
  const int64_t blocks = (width + kThreads * 4 - 1) / (kThreads * 4);
  return {dim3(unsigned(count), unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)), dim3(kThreads)};
}

}  // namespace

namespace cuda {

void gather(const int32_t* index, const float* x, float* y, int64_t width, int64_t count, const int32_t* live,
            Stream stream) {
  launch(move_rows<kGather>, grid(width, count), stream, index, nullptr, x, y, width, live);
}
void scatter(const int32_t* index, const float* y, float* x, int64_t width, int64_t count, const int32_t* live,
             Stream stream) {
  launch(move_rows<kScatter>, grid(width, count), stream, index, nullptr, y, x, width, live);
}
void scatter_add(const Args& a, int64_t count, const int32_t* live, Stream stream) {
  launch(move_rows<kAdd>, grid(a.width, count), stream, a.index, a.gate, a.y, a.x, a.width, live);
}

}  // namespace cuda
}  // namespace fth::compact
