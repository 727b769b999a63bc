#include "gate.h"

#include "../simd/avx512.h"

namespace fth::gate::avx512 {
namespace {

float dot(const float* x, const float* w, int64_t n) {
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t k = 0;
  for (; k + 64 <= n; k += 64)
#pragma GCC unroll 4
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
    const int64_t at = a.rows == nullptr ? 0 : a.rows[i].depth * a.stride;
    for (int64_t j = 0; j < a.outputs; j++) {
      const float z = dot(a.x + i * a.width, a.w + at + j * a.width, a.width) / a.temperature;
      a.logits[i * a.outputs + j] = a.b == nullptr ? z : z + a.b[at + j];
    }
  }
}

}  // namespace fth::gate::avx512
