#include "norm.h"

#include <math.h>

#include "../simd/avx2.h"

namespace fth::norm::avx2 {

void rows(const Args& a, int64_t begin, int64_t end) {
  const int64_t n = a.width, whole = n / 8 * 8;
  const __m256i tail = lanes8(n - whole);
  for (int64_t i = begin; i < end; i++) {
    const float* x = a.x + i * n;
    const int64_t depth = a.rows == nullptr ? 0 : a.rows[i].depth;
    const float* gain = a.gain == nullptr ? nullptr : a.gain + depth * n;
    const float* bias = a.bias == nullptr ? nullptr : a.bias + depth * n;

    __m256 mean = _mm256_setzero_ps();
    if (a.layer) {
      __m256 sum = _mm256_maskload_ps(x + whole, tail);
      for (int64_t k = 0; k < whole; k += 8) sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + k));
      mean = _mm256_set1_ps(sum8(sum) / float(n));
    }
    __m256 d = _mm256_sub_ps(_mm256_maskload_ps(x + whole, tail), mean);
    d = _mm256_and_ps(d, _mm256_castsi256_ps(tail));
    __m256 squares = _mm256_mul_ps(d, d);
    for (int64_t k = 0; k < whole; k += 8) {
      d = _mm256_sub_ps(_mm256_loadu_ps(x + k), mean);
      squares = _mm256_fmadd_ps(d, d, squares);
    }
    const __m256 scale = _mm256_set1_ps(1.f / sqrtf(sum8(squares) / float(n) + a.eps));

    for (int64_t k = 0; k < n; k += 8) {
      const __m256i lanes = k < whole ? _mm256_set1_epi32(-1) : tail;
      __m256 y = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + k, lanes), mean), scale);
      if (gain != nullptr) y = _mm256_mul_ps(y, _mm256_maskload_ps(gain + k, lanes));
      if (bias != nullptr) y = _mm256_add_ps(y, _mm256_maskload_ps(bias + k, lanes));
      if (a.residual != nullptr) y = _mm256_add_ps(y, _mm256_maskload_ps(a.residual + i * n + k, lanes));
      if (a.y != nullptr) _mm256_maskstore_ps(a.y + i * n + k, lanes, y);
      if (a.y_bf16 != nullptr) {
        alignas(16) uint16_t eight[8];
        _mm_store_si128(reinterpret_cast<__m128i*>(eight), bf16_of_8(y));
        memcpy(a.y_bf16 + i * a.stride_bf16 + k, eight, size_t(n - k < 8 ? n - k : 8) * 2);
      }
    }
    if (a.y_bf16 != nullptr && a.stride_bf16 > n) a.y_bf16[i * a.stride_bf16 + n] = 0;
  }
}

}  // namespace fth::norm::avx2
