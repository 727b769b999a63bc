#include "rope.h"

#include "../simd/avx2.h"

namespace fth::rope::avx2 {
namespace {

// Both take some pairs through all heads of a row before the next, so that their cosines and sines stay in registers.

void half(const Args& a, const float* cosine, const float* sine, float* row) {
  for (int64_t k = 0; k < a.pairs; k += 8) {
    const __m256i lanes = lanes8(a.pairs - k < 8 ? a.pairs - k : 8);
    const __m256 c = _mm256_maskload_ps(cosine + k, lanes), s = _mm256_maskload_ps(sine + k, lanes);
    float *x = row + k, *y = x + a.pairs;
    for (int64_t h = 0; h < a.heads; h++, x += a.head_dim, y += a.head_dim) {
      const __m256 first = _mm256_maskload_ps(x, lanes), second = _mm256_maskload_ps(y, lanes);
      _mm256_maskstore_ps(x, lanes, _mm256_sub_ps(_mm256_mul_ps(first, c), _mm256_mul_ps(second, s)));
      _mm256_maskstore_ps(y, lanes, _mm256_add_ps(_mm256_mul_ps(second, c), _mm256_mul_ps(first, s)));
    }
  }
}

void interleaved(const Args& a, const float* cosine, const float* sine, float* row) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  for (int64_t k = 0; k < a.pairs; k += 4) {
    const int64_t left = a.pairs - k < 4 ? a.pairs - k : 4;
    const __m256i lanes = lanes8(2 * left);
    const __m256 c = _mm256_permutevar8x32_ps(_mm256_maskload_ps(cosine + k, lanes8(left)), twice);
    const __m256 s = _mm256_permutevar8x32_ps(_mm256_maskload_ps(sine + k, lanes8(left)), twice);
    float* x = row + 2 * k;
    for (int64_t h = 0; h < a.heads; h++, x += a.head_dim) {
      const __m256 v = _mm256_maskload_ps(x, lanes), swapped = _mm256_permute_ps(v, 0xb1);
      _mm256_maskstore_ps(x, lanes, _mm256_addsub_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(swapped, s)));
    }
  }
}

}  // namespace

void rows(const Args& a, int64_t begin, int64_t end) {
  const auto turn = a.interleaved ? interleaved : half;
  for (int64_t i = begin; i < end; i++) {
    const float* cosine = a.table + i * 2 * a.pairs;
    turn(a, cosine, cosine + a.pairs, a.x + i * a.stride);
  }
}

}  // namespace fth::rope::avx2
