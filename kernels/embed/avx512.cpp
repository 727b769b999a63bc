#include "embed.h"

#include "../simd/avx512.h"

namespace fth::embed::avx512 {

void f32(const float* row, float scale, int64_t width, float* out) {
  const __m512 by = _mm512_set1_ps(scale);
  for (int64_t k = 0; k < width; k += 16) {
    const __mmask16 lanes = lanes16(width - k);
    _mm512_mask_storeu_ps(out + k, lanes, _mm512_mul_ps(by, _mm512_maskz_loadu_ps(lanes, row + k)));
  }
}

void bf16(const uint16_t* row, float scale, int64_t width, float* out) {
  const __m512 by = _mm512_set1_ps(scale);
  for (int64_t k = 0; k < width; k += 16) {
    const __mmask16 lanes = lanes16(width - k);
    const __m512 v = float_of_16_bf16(_mm256_maskz_loadu_epi16(lanes, row + k));
    _mm512_mask_storeu_ps(out + k, lanes, _mm512_mul_ps(by, v));
  }
}

}  // namespace fth::embed::avx512
