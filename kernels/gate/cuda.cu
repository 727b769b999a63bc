// One block per row. Floor: x read once, and every router whose depth occurs.
#include "gate/cuda.h"

namespace fth::gate {
namespace {

__global__ void __launch_bounds__(kTeam) gate_rows(const __grid_constant__ Params p) { gate_row(p, blockIdx.x); }

__global__ void __launch_bounds__(kTeam) divide_elements(const float* x, float by, int64_t count, float* y) {
  const int64_t k = (int64_t(blockIdx.x) * kTeam + threadIdx.x) * 4;
  Four v = load_four(x + k, count - k);
  for (int i = 0; i < 4; i++) v.v[i] /= by;
  store_four(y + k, count - k, v);
}

}  // namespace

namespace cuda {

void rows(const Logits& logits, const Inner& inner, const Decision& decision, int64_t count, const Queue& queue) {
  const Params p{logits, inner, decision};
  if (queue.tasks != nullptr) return queue.tasks->add(Op::gate, Share::row, count, p);
  launch(gate_rows, {dim3(unsigned(count)), dim3(kTeam), shared_bytes(logits.outputs)}, queue.stream, p);
}

void divide(const float* x, float by, int64_t count, float* y, Stream stream) {
  launch(divide_elements, {dim3(unsigned((count + kTeam * 4 - 1) / (kTeam * 4))), dim3(kTeam)}, stream, x, by,
         count, y);
}

}  // namespace cuda
}  // namespace fth::gate
