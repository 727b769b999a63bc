#include "gate.h"

#include "../simd/avx512.h"

namespace fth::gate::avx512 {
namespace {

float dot(const float* x, const float* w, int64_t n) {
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t k = 0;
  for (; k + 64 <= n; k += 64)
    for (int c = 0; c < 4; c++)
      sum[c] = _mm512_fmadd_ps(_mm512_loadu_ps(x + k + 16 * c), _mm512_loadu_ps(w + k + 16 * c), sum[c]);
  for (; k < n; k += 16) {
    const __mmask16 lanes = lanes16(n - k);
    sum[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, x + k), _mm512_maskz_loadu_ps(lanes, w + k), sum[0]);
  }
  return sum16(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
}

}  // namespace

void logits(const Logits& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float* w = a.w + (a.rows == nullptr ? 0 : a.rows[i].depth) * a.w_stride;
    for (int64_t j = 0; j < a.outputs; j++)
      a.logits[i * a.outputs + j] = dot(a.x + i * a.width, w + j * a.width, a.width) / a.temperature;
  }
}

}  // namespace fth::gate::avx512
