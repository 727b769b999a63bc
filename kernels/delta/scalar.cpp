#include "delta.h"

#include <math.h>

namespace fth::delta::scalar {

void rows(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float *x = a.now + i * a.width, *y = a.before + i * a.width;
    const float* z = a.before2 == nullptr ? nullptr : a.before2 + i * a.width;
    fth_delta_stats sums{0, 0, 0, 0, z == nullptr ? NAN : 0};
    for (int64_t k = 0; k < a.width; k++) {
      const float step = x[k] - y[k];
      sums.dot += x[k] * y[k];
      sums.now += x[k] * x[k];
      sums.before += y[k] * y[k];
      sums.step += step * step;
      if (z == nullptr) continue;
      const float acceleration = step - (y[k] - z[k]);
      sums.acceleration += acceleration * acceleration;
    }
    a.out[i] = sums;
  }
}

}  // namespace fth::delta::scalar
