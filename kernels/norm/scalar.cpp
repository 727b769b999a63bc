#include "norm.h"

#include <math.h>

#include "../simd/scalar.h"

namespace fth::norm::scalar {

void rows(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float* x = a.x + i * a.width;
    const int64_t depth = a.rows == nullptr ? 0 : a.rows[i].depth;
    float mean = 0;
    if (a.layer) {
      for (int64_t k = 0; k < a.width; k++) mean += x[k];
      mean /= float(a.width);
    }
    float squares = 0;
    for (int64_t k = 0; k < a.width; k++) squares += (x[k] - mean) * (x[k] - mean);
    const float scale = 1.f / sqrtf(squares / float(a.width) + a.eps);
    for (int64_t k = 0; k < a.width; k++) {
      float y = (x[k] - mean) * scale;
      if (a.gain != nullptr) y *= a.gain[depth * a.width + k];
      if (a.bias != nullptr) y += a.bias[depth * a.width + k];
      if (a.residual != nullptr) y += a.residual[i * a.width + k];
      if (a.y != nullptr) a.y[i * a.width + k] = y;
      if (a.y_bf16 != nullptr) a.y_bf16[i * a.stride_bf16 + k] = bf16_of_float(y);
    }
    if (a.y_bf16 != nullptr && a.stride_bf16 > a.width) a.y_bf16[i * a.stride_bf16 + a.width] = 0;
  }
}

}  // namespace fth::norm::scalar
