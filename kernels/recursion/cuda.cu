// Selection is one block.
#include "recursion/cuda.h"

namespace fth::recursion {
namespace {

__global__ void __launch_bounds__(kTeam) select_all(const __grid_constant__ Select s) { select_rows(s); }

}  // namespace

void cuda::select(const Select& s, const Queue& queue) {
  if (queue.tasks != nullptr) {
    queue.tasks->add(Op::select, Share::all, 1, s);
    if (s.depth > 0) queue.tasks->add(Op::leave, Share::row, 0, Leave{s.live});
    return;
  }
  launch(select_all, {dim3(1), dim3(kTeam), (kTeam / 32 + 1) * sizeof(int)}, queue.stream, s);
}

}  // namespace fth::recursion
