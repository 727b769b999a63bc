// RMS and layer norm of a row by the threads of a team: each takes four neighbouring elements in turn, so loads are of
// 16 bytes where the row allows and the order of the sums does not depend on whether it does.
#pragma once
#include "cuda/four.h"
#include "cuda/team.h"
#include "norm/norm.h"

namespace fth::norm {
namespace {

using namespace gpu;

__device__ __forceinline__ void norm_row(const Args& a, int64_t row) {
  const int64_t width = a.width, first = int64_t(threadIdx.x) * 4;
  const float* x = a.x + row * width;
  float mean = 0;
  if (a.layer) {
    float sum = 0;
    for (int64_t k = first; k < width; k += kTeam * 4) {
      const Four v = load_four(x + k, width - k);
      for (int i = 0; i < 4; i++) sum += v.v[i];
    }
    mean = team_sum(sum) / float(width);
  }
  float squares = 0;
  for (int64_t k = first; k < width; k += kTeam * 4) {
    const Four v = load_four(x + k, width - k);
    for (int i = 0; i < 4; i++) {
      const float d = k + i < width ? v.v[i] - mean : 0.f;
      squares = fmaf(d, d, squares);
    }
  }
  const float scale = 1.f / sqrtf(team_sum(squares) / float(width) + a.eps);

  const int64_t depth = a.rows == nullptr ? 0 : a.rows[row].depth;
  const float* gain = a.gain == nullptr ? nullptr : a.gain + depth * width;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + depth * width;
  const float* residual = a.residual == nullptr ? nullptr : a.residual + row * width;
  float* y = a.y == nullptr ? nullptr : a.y + row * width;
  bf16* rounded = a.y_bf16 == nullptr ? nullptr : reinterpret_cast<bf16*>(a.y_bf16) + row * a.stride_bf16;
  for (int64_t k = first; k < width; k += kTeam * 4) {
    const Four v = load_four(x + k, width - k);
    for (int i = 0; i < 4 && k + i < width; i++) {
      float out = (v.v[i] - mean) * scale;
      if (gain != nullptr) out *= gain[k + i];
      if (bias != nullptr) out += bias[k + i];
      if (residual != nullptr) out += residual[k + i];
      if (y != nullptr) y[k + i] = out;
      if (rounded != nullptr) rounded[k + i] = to_bf16(out);
    }
  }
  if (rounded != nullptr && width + threadIdx.x < a.stride_bf16) rounded[width + threadIdx.x] = {0};
}

}  // namespace
}  // namespace fth::norm
