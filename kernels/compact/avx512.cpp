#include "compact.h"

#include "../simd/avx512.h"

namespace fth::compact::avx512 {

void scatter_add(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const __m512 gate = _mm512_set1_ps(a.gate == nullptr ? 1.f : a.gate[i]);
    const float* y = a.y + i * a.width;
    float* x = a.x + a.index[i] * a.width;
    for (int64_t k = 0; k < a.width; k += 16) {
      const __mmask16 lanes = lanes16(a.width - k);
      const __m512 added = _mm512_mul_ps(gate, _mm512_maskz_loadu_ps(lanes, y + k));
      _mm512_mask_storeu_ps(x + k, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, x + k), added));
    }
  }
}

}  // namespace fth::compact::avx512
