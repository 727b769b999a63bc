// The table: one thread per angle. The rotation: one block per row, several where heads are many. Floor: x read and
// written once.
#include "rope/cuda.h"

namespace fth::rope {
namespace {

__global__ void __launch_bounds__(kTeam) fill_table(const __grid_constant__ cuda::Angles a, int64_t angles) {
  const int64_t at = int64_t(blockIdx.x) * kTeam + threadIdx.x;
  if (at < angles) fill_angle(a, at / a.pairs, at % a.pairs);
}

__global__ void __launch_bounds__(kTeam) rotate(const __grid_constant__ Args a) {
  rotate_row(a, blockIdx.x, blockIdx.y, gridDim.y);
}

}  // namespace

namespace cuda {

void angles(const Angles& a, int64_t count, const Queue& queue) {
  if (queue.tasks != nullptr) return queue.tasks->add(Op::angles, Share::row, count, a);
  const int64_t all = count * a.pairs;
  launch(fill_table, {dim3(unsigned((all + kTeam - 1) / kTeam)), dim3(kTeam)}, queue.stream, a, all);
}

void rows(const Args& args, int64_t count, const Queue& queue) {
  if (queue.tasks != nullptr) return queue.tasks->add(Op::rotate, Share::row, count, args);
  const int64_t items = args.sets * args.heads * ((args.pairs + 3) / 4), blocks = (items + kTeam - 1) / kTeam;
  launch(rotate, {dim3(unsigned(count), unsigned(blocks < 64 ? blocks : 64)), dim3(kTeam)}, queue.stream, args);
}

}  // namespace cuda
}  // namespace fth::rope
