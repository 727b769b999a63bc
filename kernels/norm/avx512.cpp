#include "norm.h"

#include <math.h>

#include "../simd/avx512.h"

namespace fth::norm::avx512 {

void rows(const Args& a, int64_t begin, int64_t end) {
  const int64_t n = a.width;
  for (int64_t i = begin; i < end; i++) {
    const float* x = a.x + i * n;
    const int64_t depth = a.rows == nullptr ? 0 : a.rows[i].depth;
    const float* gain = a.gain == nullptr ? nullptr : a.gain + depth * n;
    const float* bias = a.bias == nullptr ? nullptr : a.bias + depth * n;

    __m512 mean = _mm512_setzero_ps();
    if (a.layer) {
      __m512 sum = _mm512_setzero_ps();
      for (int64_t k = 0; k < n; k += 16) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes16(n - k), x + k));
      mean = _mm512_set1_ps(sum16(sum) / float(n));
    }
    __m512 squares = _mm512_setzero_ps();
    for (int64_t k = 0; k < n; k += 16) {
      const __mmask16 lanes = lanes16(n - k);
      const __m512 d = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, x + k), mean);
      squares = _mm512_fmadd_ps(d, d, squares);
    }
    const __m512 scale = _mm512_set1_ps(1.f / sqrtf(sum16(squares) / float(n) + a.eps));

    for (int64_t k = 0; k < n; k += 16) {
      const __mmask16 lanes = lanes16(n - k);
      __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + k), mean), scale);
      if (gain != nullptr) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(lanes, gain + k));
      if (bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(lanes, bias + k));
      if (a.residual != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(lanes, a.residual + i * n + k));
      if (a.y != nullptr) _mm512_mask_storeu_ps(a.y + i * n + k, lanes, y);
      if (a.y_bf16 != nullptr) _mm256_mask_storeu_epi16(a.y_bf16 + i * a.stride_bf16 + k, lanes, bf16_of_16(y));
    }
    if (a.y_bf16 != nullptr && a.stride_bf16 > n) a.y_bf16[i * a.stride_bf16 + n] = 0;
  }
}

}  // namespace fth::norm::avx512
