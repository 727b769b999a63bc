// Moving a row between a list of rows and the rows that it names, four floats per thread and turn.
#pragma once
#include "compact/compact.h"
#include "cuda/four.h"
#include "cuda/team.h"

namespace fth::compact {
namespace {

using namespace gpu;

enum Move : int32_t { kGather, kScatter, kAdd };

struct Params {
  const int32_t* index;
  const float* gate;  // kAdd, or null: 1
  const float* from;
  float* to;
  int64_t width;
  const int32_t* live;  // rows from *live on stay; null: none
};

// Part `part` of `parts` of a row, by a team.
template <Move Kind>
__device__ __forceinline__ void move_row(const Params& p, int64_t row, int64_t part, int64_t parts) {
  if (p.live != nullptr && row >= *p.live) return;
  const int64_t other = p.index[row], width = p.width;
  const float* from = p.from + (Kind == kGather ? other : row) * width;
  float* to = p.to + (Kind == kGather ? row : other) * width;
  const float g = Kind == kAdd && p.gate != nullptr ? p.gate[row] : 1.f;
  for (int64_t k = (part * kTeam + threadIdx.x) * 4; k < width; k += parts * kTeam * 4) {
    Four v = load_four(from + k, width - k);
    if (Kind == kAdd) {
      const Four x = load_four(to + k, width - k);
      for (int i = 0; i < 4; i++) v.v[i] = __fadd_rn(x.v[i], __fmul_rn(g, v.v[i]));
    }
    store_four(to + k, width - k, v);
  }
}

}  // namespace
}  // namespace fth::compact
