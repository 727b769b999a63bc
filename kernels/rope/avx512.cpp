#include "rope.h"

#include "../simd/avx512.h"

namespace fth::rope::avx512 {
namespace {

// Both take some pairs through all heads of a row before the next, so that their cosines and sines stay in registers.

void half(const Args& a, const float* cosine, const float* sine, float* row) {
  for (int64_t k = 0; k < a.pairs; k += 16) {
    const __mmask16 lanes = lanes16(a.pairs - k);
    const __m512 c = _mm512_maskz_loadu_ps(lanes, cosine + k), s = _mm512_maskz_loadu_ps(lanes, sine + k);
    float *x = row + k, *y = x + a.pairs;
    for (int64_t h = 0; h < a.heads; h++, x += a.head_dim, y += a.head_dim) {
      const __m512 first = _mm512_maskz_loadu_ps(lanes, x), second = _mm512_maskz_loadu_ps(lanes, y);
      _mm512_mask_storeu_ps(x, lanes, _mm512_sub_ps(_mm512_mul_ps(first, c), _mm512_mul_ps(second, s)));
      _mm512_mask_storeu_ps(y, lanes, _mm512_add_ps(_mm512_mul_ps(second, c), _mm512_mul_ps(first, s)));
    }
  }
}

void interleaved(const Args& a, const float* cosine, const float* sine, float* row) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  for (int64_t k = 0; k < a.pairs; k += 8) {
    const __mmask16 lanes = lanes16(2 * (a.pairs - k));
    const __mmask16 left = lanes16(a.pairs - k < 8 ? a.pairs - k : 8);
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(left, cosine + k));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(left, sine + k));
    float* x = row + 2 * k;
    for (int64_t h = 0; h < a.heads; h++, x += a.head_dim) {
      const __m512 v = _mm512_maskz_loadu_ps(lanes, x), swapped = _mm512_permute_ps(v, 0xb1);
      const __m512 vc = _mm512_mul_ps(v, c), ss = _mm512_mul_ps(swapped, s);
      _mm512_mask_storeu_ps(x, lanes, _mm512_mask_sub_ps(_mm512_add_ps(vc, ss), 0x5555, vc, ss));
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

}  // namespace fth::rope::avx512
