#include "compact.h"

#include "../simd/avx512.h"

namespace fth::compact::avx512 {

void scatter_add(const Args& a, int64_t begin, int64_t end) {
  const int64_t whole = a.width / 16 * 16;
  const __mmask16 tail = lanes16(a.width - whole);
  for (int64_t i = begin; i < end; i++) {
    const __m512 gate = _mm512_set1_ps(a.gate == nullptr ? 1.f : a.gate[i]);
    const float* y = a.y + i * a.width;
    float* x = a.x + a.index[i] * a.width;
#pragma GCC unroll 4
    for (int64_t k = 0; k < whole; k += 16)
      _mm512_storeu_ps(x + k, _mm512_add_ps(_mm512_loadu_ps(x + k), _mm512_mul_ps(gate, _mm512_loadu_ps(y + k))));
    if (tail == 0) continue;  // an access of no lanes would be a slow one where the next page is not there
    const __m512 added = _mm512_mul_ps(gate, _mm512_maskz_loadu_ps(tail, y + whole));
    _mm512_mask_storeu_ps(x + whole, tail, _mm512_add_ps(_mm512_maskz_loadu_ps(tail, x + whole), added));
  }
}

}  // namespace fth::compact::avx512
