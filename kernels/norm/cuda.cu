// One block per row. Floor: x read once, y written once.
#include "norm/cuda.h"

namespace fth::norm {
namespace {

__global__ void __launch_bounds__(kTeam) norm_rows(const __grid_constant__ Args a) { norm_row(a, blockIdx.x); }

}  // namespace

void cuda::rows(const Args& args, int64_t count, const Queue& queue) {
  if (queue.tasks != nullptr) return queue.tasks->add(Op::norm, Share::row, count, args);
  launch(norm_rows, {dim3(unsigned(count)), dim3(kTeam), kTeam / 32 * sizeof(float)}, queue.stream, args);
}

}  // namespace fth::norm
