#include "head.h"

#include <math.h>

#include "../simd/avx512.h"

namespace fth::head::avx512 {
namespace {

// tanh within 2^-22; NaN is not kept.
__m512 tanh16(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.f), _mm512_add_ps(exp16(_mm512_add_ps(x, x)), one)));
}

// The two largest values of each lane; an equal one counts again. NaN is passed over.
struct Top2 {
  __m512 first = _mm512_set1_ps(-INFINITY), second = first;

  void add(__m512 z) {
    second = _mm512_max_ps(_mm512_min_ps(z, first), second);
    first = _mm512_max_ps(z, first);
  }
  void add(const Top2& other) {
    second = _mm512_max_ps(_mm512_min_ps(first, other.first), _mm512_max_ps(second, other.second));
    first = _mm512_max_ps(first, other.first);
  }
  void collect(Partial& p) const {
    p.top1 = max16(first) + 0.f;  // -0 is +0
    const __mmask16 holds = _mm512_cmp_ps_mask(first, _mm512_set1_ps(p.top1), _CMP_EQ_OQ);
    const bool twice = (holds & (holds - 1)) != 0;
    p.top2 = twice ? p.top1 : max16(_mm512_mask_mov_ps(first, holds, second)) + 0.f;
  }
};

// f(j, lanes) for the vectors of a row.
template <class F>
inline __attribute__((always_inline)) void each(int64_t columns, F f) {
  int64_t j = 0;
  for (; j + 16 <= columns; j += 16) f(j, __mmask16(0xffff));
  if (j < columns) f(j, lanes16(columns - j));
}

}  // namespace

void statistics(const Args& a, int64_t begin, int64_t end) {
  const bool as_is = a.scale == 1 && a.softcap == 0;
  const __m512 scale = _mm512_set1_ps(a.scale), cap = _mm512_set1_ps(a.softcap), least = _mm512_set1_ps(-INFINITY);
  for (int64_t i = begin; i < end; i++) {
    float* row = a.z + i * a.stride;
    Partial p;
    Top2 top, odd;  // two chains
    each(a.columns, [&](int64_t j, __mmask16 lanes) {
      __m512 z = _mm512_mask_loadu_ps(least, lanes, row + j);
      if (!as_is) {
        z = _mm512_mask_mul_ps(z, lanes, z, scale);
        const __mmask16 ordered = _mm512_mask_cmp_ps_mask(lanes, z, z, _CMP_ORD_Q);
        if (a.softcap > 0) z = _mm512_mask_mul_ps(z, ordered, cap, tanh16(_mm512_div_ps(z, cap)));
        _mm512_mask_storeu_ps(row + j, lanes, z);
      }
      if (j % 32 == 0) top.add(z);
      else odd.add(z);
    });
    top.add(odd);
    top.collect(p);

    const __m512 largest = _mm512_set1_ps(p.top1);
    __m512 sum = _mm512_setzero_ps(), slope = sum, sought = _mm512_set1_ps(p.top2);
    each(a.columns, [&](int64_t j, __mmask16 lanes) {
      const __m512 z = _mm512_maskz_loadu_ps(lanes, row + j);
      const __mmask16 differs = _mm512_mask_cmp_ps_mask(lanes, z, largest, _CMP_NEQ_UQ);  // not equal infinities
      const __m512 d = _mm512_max_ps(_mm512_set1_ps(kFarBelow), _mm512_maskz_sub_ps(differs, z, largest));
      const __m512 e = _mm512_maskz_mov_ps(lanes, exp16(d));  // NaN of a NaN
      sum = _mm512_add_ps(sum, e);
      slope = _mm512_fmadd_ps(d, e, slope);
      const __mmask16 found = _mm512_mask_cmp_ps_mask(lanes, z, sought, _CMP_GE_OQ);
      if (__builtin_expect(found != 0, 0) && name(p, row + j, found, a.first + j)) sought = _mm512_set1_ps(NAN);
    });
    p.sum = sum16(sum);
    p.slope = sum16(slope);
    if (isnan(p.sum)) p.top1 = NAN;
    a.partial[i * a.partial_stride] = p;
  }
}

}  // namespace fth::head::avx512
