#include "embed.h"

#include "../simd/avx2.h"

namespace fth::embed::avx2 {

void f32(const float* row, float scale, int64_t width, float* out) {
  const __m256 by = _mm256_set1_ps(scale);
  const int64_t whole = width / 8 * 8;
  for (int64_t k = 0; k < whole; k += 8) _mm256_storeu_ps(out + k, _mm256_mul_ps(by, _mm256_loadu_ps(row + k)));
  const __m256i tail = lanes8(width - whole);
  _mm256_maskstore_ps(out + whole, tail, _mm256_mul_ps(by, _mm256_maskload_ps(row + whole, tail)));
}

void bf16(const uint16_t* row, float scale, int64_t width, float* out) {
  const __m256 by = _mm256_set1_ps(scale);
  const int64_t whole = width / 8 * 8;
  for (int64_t k = 0; k < whole; k += 8) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + k));
    _mm256_storeu_ps(out + k, _mm256_mul_ps(by, float_of_8_bf16(eight)));
  }
  for (int64_t k = whole; k < width; k++) out[k] = scale * float_of_bf16(row[k]);
}

}  // namespace fth::embed::avx2
