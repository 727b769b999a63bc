#include "embed.h"

#include "../simd/avx512.h"

namespace fth::embed::avx512 {

void f32(const float* row, float scale, int64_t width, float* out) {
  for (int64_t k = 0; k < width; k += 16)
    Vector::store(out + k, width - k, _mm512_mul_ps(_mm512_set1_ps(scale), Vector::load(row + k, width - k)));
}

void bf16(const uint16_t* row, float scale, int64_t width, float* out) {
  const auto part = [&](int64_t k, __m256i x) {
    Vector::store(out + k, width - k, _mm512_mul_ps(_mm512_set1_ps(scale), float_of_16_bf16(x)));
  };
  int64_t k = 0;
  for (; k + 16 <= width; k += 16) part(k, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + k)));
  if (k < width) part(k, _mm256_maskz_loadu_epi16(lanes16(width - k), row + k));
}

}  // namespace fth::embed::avx512
