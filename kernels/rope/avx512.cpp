#include "rope.h"

#include "../simd/avx512.h"

namespace fth::rope::avx512 {
namespace {

void half(float* x, const float* cosine, const float* sine, int64_t pairs) {
  for (int64_t k = 0; k < pairs; k += 16) {
    const __mmask16 lanes = lanes16(pairs - k);
    const __m512 c = _mm512_maskz_loadu_ps(lanes, cosine + k), s = _mm512_maskz_loadu_ps(lanes, sine + k);
    const __m512 first = _mm512_maskz_loadu_ps(lanes, x + k), second = _mm512_maskz_loadu_ps(lanes, x + pairs + k);
    _mm512_mask_storeu_ps(x + k, lanes, _mm512_sub_ps(_mm512_mul_ps(first, c), _mm512_mul_ps(second, s)));
    _mm512_mask_storeu_ps(x + pairs + k, lanes, _mm512_add_ps(_mm512_mul_ps(second, c), _mm512_mul_ps(first, s)));
  }
}

void interleaved(float* x, const float* cosine, const float* sine, int64_t pairs) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  for (int64_t k = 0; k < pairs; k += 8) {
    const __mmask16 lanes = lanes16(2 * (pairs - k));
    const __mmask16 left = lanes16(pairs - k < 8 ? pairs - k : 8);
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(left, cosine + k));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(left, sine + k));
    const __m512 v = _mm512_maskz_loadu_ps(lanes, x + 2 * k), swapped = _mm512_permute_ps(v, 0xb1);
    const __m512 vc = _mm512_mul_ps(v, c), ss = _mm512_mul_ps(swapped, s);
    _mm512_mask_storeu_ps(x + 2 * k, lanes, _mm512_mask_sub_ps(_mm512_add_ps(vc, ss), 0x5555, vc, ss));
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

}  // namespace fth::rope::avx512
