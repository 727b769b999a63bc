// One block per row, several where rows are wide. Floor: every row read and written once, with scatter_add its target
// read as well.
#include "compact/cuda.h"

namespace fth::compact {
namespace {

constexpr int kMostBlocks = 64;  // of a row

template <Move Kind>
__global__ void __launch_bounds__(kTeam) move_rows(const __grid_constant__ Params p) {
  move_row<Kind>(p, blockIdx.x, blockIdx.y, gridDim.y);
}

template <Move Kind>
void start(Op op, const Params& p, int64_t count, const Queue& queue) {
  if (queue.tasks != nullptr) return queue.tasks->add(op, Share::row, count, p);
  const int64_t blocks = (p.width + kTeam * 4 - 1) / (kTeam * 4);
  launch(move_rows<Kind>,
         {dim3(unsigned(count), unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)), dim3(kTeam)}, queue.stream, p);
}

}  // namespace

namespace cuda {

void gather(const int32_t* index, const float* x, float* y, int64_t width, int64_t count, const int32_t* live,
            const Queue& queue) {
  start<kGather>(Op::gather, {index, nullptr, x, y, width, live}, count, queue);
}
void scatter(const int32_t* index, const float* y, float* x, int64_t width, int64_t count, const int32_t* live,
             const Queue& queue) {
  start<kScatter>(Op::scatter, {index, nullptr, y, x, width, live}, count, queue);
}
void scatter_add(const Args& a, int64_t count, const int32_t* live, const Queue& queue) {
  start<kAdd>(Op::add, {a.index, a.gate, a.y, a.x, a.width, live}, count, queue);
}

}  // namespace cuda
}  // namespace fth::compact
