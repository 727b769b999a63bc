#include "gate.h"

#include "../simd/avx2.h"

namespace fth::gate::avx2 {
namespace {

float dot(const float* x, const float* w, int64_t n) {
  __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  int64_t k = 0;
  for (; k + 32 <= n; k += 32)
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++)
      sum[c] = _mm256_fmadd_ps(_mm256_loadu_ps(x + k + 8 * c), _mm256_loadu_ps(w + k + 8 * c), sum[c]);
  for (; k < n; k += 8) {
    const __m256i lanes = lanes8(n - k < 8 ? n - k : 8);
    sum[0] = _mm256_fmadd_ps(_mm256_maskload_ps(x + k, lanes), _mm256_maskload_ps(w + k, lanes), sum[0]);
  }
  return sum8(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
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

}  // namespace fth::gate::avx2
