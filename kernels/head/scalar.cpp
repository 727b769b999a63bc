#include "head.h"

#include <math.h>

namespace fth::head {
namespace {

// a - b for a <= b, not below kFarBelow; 0 for equal infinities.
float distance(float a, float b) { return a == b ? 0 : a - b > kFarBelow ? a - b : kFarBelow; }

}  // namespace

fth_head_stats merge(const Partial* partials, int64_t count) {
  Partial all;
  for (int64_t c = 0; c < count; c++) {
    const Partial& p = partials[c];
    if (isnan(p.top1)) return {0, -1, NAN, NAN, NAN, NAN};
    insert(all, p.top1, p.argmax);
    if (p.second >= 0) insert(all, p.top2, p.second);
  }
  for (int64_t c = 0; c < count; c++) {
    const float d = distance(partials[c].top1, all.top1), weight = expf(d);
    all.sum += weight * partials[c].sum;
    all.slope += weight * (partials[c].slope + d * partials[c].sum);
  }
  const float log_sum = logf(all.sum);
  return {all.argmax, all.second, all.top1, all.top2, all.top1 + log_sum, log_sum - all.slope / all.sum};
}

namespace scalar {

void statistics(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    float* z = a.z + i * a.stride;
    Partial p;
    bool nan = false;
    for (int64_t j = 0; j < a.columns; j++) {
      z[j] *= a.scale;
      if (a.softcap > 0) z[j] = a.softcap * tanhf(z[j] / a.softcap);
      nan |= isnan(z[j]);
      insert(p, z[j], int32_t(a.first + j));
    }
    for (int64_t j = 0; j < a.columns; j++) {
      const float d = distance(z[j], p.top1), e = expf(d);
      p.sum += e;
      p.slope += d * e;
    }
    if (nan) p.top1 = NAN;
    a.partial[i * a.partial_stride] = p;
  }
}

}  // namespace scalar
}  // namespace fth::head
