// One block per row. Every thread takes four neighbouring elements in turn, so loads are of 16 bytes where the row
// allows and the order of the sums does not depend on whether it does.
#include "cuda/block_sum.h"
#include "cuda/four.h"
#include "norm/norm.h"

namespace fth::norm {
namespace {

using namespace gpu;

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) norm_rows(const __grid_constant__ Args a) {
  const int64_t row = blockIdx.x, width = a.width, first = int64_t(threadIdx.x) * 4;
  const float* x = a.x + row * width;
  float mean = 0;
  if (a.layer) {
    float sum = 0;
    for (int64_t k = first; k < width; k += kThreads * 4) {
      const Four v = load_four(x + k, width - k);
      for (int i = 0; i < 4; i++) sum += v.v[i];
    }
    mean = block_sum<kThreads>(sum) / float(width);
  }
  float squares = 0;
  for (int64_t k = first; k < width; k += kThreads * 4) {
    const Four v = load_four(x + k, width - k);
    for (int i = 0; i < 4; i++) {
      const float d = k + i < width ? v.v[i] - mean : 0.f;
      squares = fmaf(d, d, squares);
    }
  }
  const float scale = 1.f / sqrtf(block_sum<kThreads>(squares) / float(width) + a.eps);

  const int64_t depth = a.rows == nullptr ? 0 : a.rows[row].depth;
  const float* gain = a.gain == nullptr ? nullptr : a.gain + depth * width;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + depth * width;
  const float* residual = a.residual == nullptr ? nullptr : a.residual + row * width;
  float* y = a.y == nullptr ? nullptr : a.y + row * width;
  bf16* rounded = a.y_bf16 == nullptr ? nullptr : reinterpret_cast<bf16*>(a.y_bf16) + row * a.stride_bf16;
  for (int64_t k = first; k < width; k += kThreads * 4) {
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

void cuda::rows(const Args& args, int64_t count, Stream stream) {
  launch(norm_rows, {dim3(unsigned(count)), dim3(kThreads), kThreads / 32 * sizeof(float)}, stream, args);
}

}  // namespace fth::norm
