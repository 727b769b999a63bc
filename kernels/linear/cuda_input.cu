// x as products read it: a thread per eight elements, a warp per span of codes. Floor: x read once, y written once.
#include "cuda_input.h"

#include "cuda/team.h"

namespace fth::linear {
namespace {

__global__ void __launch_bounds__(kTeam) round_rows(const __grid_constant__ Rounding p, int64_t items) {
  const int64_t i = int64_t(blockIdx.x) * kTeam + threadIdx.x;
  if (i < items) round_eight(p, i / p.eights(), i % p.eights() * 8);
}
__global__ void __launch_bounds__(kTeam) quantise_rows(const __grid_constant__ Quantising p, int64_t items) {
  const int64_t i = int64_t(blockIdx.x) * (kTeam / 32) + threadIdx.x / 32;
  if (i < items) quantise_span(p, i / p.spans(), i % p.spans());  // a whole warp
}

dim3 blocks_of(int64_t items, int64_t of_block) { return dim3(unsigned((items + of_block - 1) / of_block)); }

}  // namespace

void cuda::round(const float* x, int64_t k, uint16_t* y, int64_t y_stride, int64_t count, const Queue& queue) {
  const Rounding p{x, k, y, y_stride};
  if (queue.tasks != nullptr) return queue.tasks->add(Op::round, Share::row, count, p);
  launch(round_rows, {blocks_of(count * p.eights(), kTeam), dim3(kTeam)}, queue.stream, p, count * p.eights());
}
void cuda::quantise(const float* x, int64_t k, int64_t span, char* y, int64_t count, const Queue& queue) {
  const Quantising p{x, k, span, y};
  if (queue.tasks != nullptr) return queue.tasks->add(Op::quantise, Share::row, count, p);
  launch(quantise_rows, {blocks_of(count * p.spans(), kTeam / 32), dim3(kTeam)}, queue.stream, p, count * p.spans());
}

}  // namespace fth::linear
