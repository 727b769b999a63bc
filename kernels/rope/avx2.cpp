#include "rope.h"

#include "../simd/avx2.h"

namespace fth::rope::avx2 {
namespace {

void half(float* x, const float* cosine, const float* sine, int64_t pairs) {
  for (int64_t k = 0; k < pairs; k += 8) {
    const __m256i lanes = lanes8(pairs - k < 8 ? pairs - k : 8);
    const __m256 c = _mm256_maskload_ps(cosine + k, lanes), s = _mm256_maskload_ps(sine + k, lanes);
    const __m256 first = _mm256_maskload_ps(x + k, lanes), second = _mm256_maskload_ps(x + pairs + k, lanes);
    _mm256_maskstore_ps(x + k, lanes, _mm256_sub_ps(_mm256_mul_ps(first, c), _mm256_mul_ps(second, s)));
    _mm256_maskstore_ps(x + pairs + k, lanes, _mm256_add_ps(_mm256_mul_ps(second, c), _mm256_mul_ps(first, s)));
  }
}

void interleaved(float* x, const float* cosine, const float* sine, int64_t pairs) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  for (int64_t k = 0; k < pairs; k += 4) {
    const int64_t left = pairs - k < 4 ? pairs - k : 4;
    const __m256i lanes = lanes8(2 * left);
    const __m256 c = _mm256_permutevar8x32_ps(_mm256_maskload_ps(cosine + k, lanes8(left)), twice);
    const __m256 s = _mm256_permutevar8x32_ps(_mm256_maskload_ps(sine + k, lanes8(left)), twice);
    const __m256 v = _mm256_maskload_ps(x + 2 * k, lanes), swapped = _mm256_permute_ps(v, 0xb1);
    _mm256_maskstore_ps(x + 2 * k, lanes, _mm256_addsub_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(swapped, s)));
  }
}

}  // namespace

void rows(const Args& a, int64_t begin, int64_t end) {
  const auto turn = a.interleaved ? interleaved : half;
  for (int64_t i = begin; i < end; i++) {
    const float* cosine = a.table + i * 2 * a.pairs;
    float* x = a.x + i * a.stride;
    for (int64_t h = 0; h < a.heads; h++) turn(x + h * a.head_dim, cosine, cosine + a.pairs, a.pairs);
  }
}

}  // namespace fth::rope::avx2
