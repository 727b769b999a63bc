#include "compact.h"

#include "../simd/avx2.h"

namespace fth::compact::avx2 {

void scatter_add(const Args& a, int64_t begin, int64_t end) {
  const int64_t whole = a.width / 8 * 8;
  const __m256i tail = lanes8(a.width - whole);
  for (int64_t i = begin; i < end; i++) {
    const __m256 gate = _mm256_set1_ps(a.gate == nullptr ? 1.f : a.gate[i]);
    const float* y = a.y + i * a.width;
    float* x = a.x + a.index[i] * a.width;
#pragma GCC unroll 4
    for (int64_t k = 0; k < whole; k += 8)
      _mm256_storeu_ps(x + k, _mm256_add_ps(_mm256_loadu_ps(x + k), _mm256_mul_ps(gate, _mm256_loadu_ps(y + k))));
    if (whole == a.width) continue;  // an access of no lanes would be a slow one where the next page is not there
    const __m256 added = _mm256_mul_ps(gate, _mm256_maskload_ps(y + whole, tail));
    _mm256_maskstore_ps(x + whole, tail, _mm256_add_ps(_mm256_maskload_ps(x + whole, tail), added));
  }
}

}  // namespace fth::compact::avx2
