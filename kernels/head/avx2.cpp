#include "head.h"

#include <math.h>

#include "../simd/avx2.h"

namespace fth::head::avx2 {
namespace {

// tanh within 2^-22; NaN is not kept.
__m256 tanh8(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.f);
  return _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.f), _mm256_add_ps(exp8(_mm256_add_ps(x, x)), one)));
}

// The two largest values of each lane; an equal one counts again. NaN is passed over.
struct Top2 {
  __m256 first = _mm256_set1_ps(-INFINITY), second = first;

  void add(__m256 z) {
    second = _mm256_max_ps(_mm256_min_ps(z, first), second);
    first = _mm256_max_ps(z, first);
  }
  void add(const Top2& other) {
    second = _mm256_max_ps(_mm256_min_ps(first, other.first), _mm256_max_ps(second, other.second));
    first = _mm256_max_ps(first, other.first);
  }
  void collect(Partial& p) const {
    p.top1 = max8(first) + 0.f;  // -0 is +0
    const __m256 holds = _mm256_cmp_ps(first, _mm256_set1_ps(p.top1), _CMP_EQ_OQ);
    const int lanes = _mm256_movemask_ps(holds);
    p.top2 = (lanes & (lanes - 1)) != 0 ? p.top1 : max8(_mm256_blendv_ps(first, second, holds)) + 0.f;
  }
};

// f(j, lanes) for the vectors of a row.
template <class F>
inline __attribute__((always_inline)) void each(int64_t columns, F f) {
  int64_t j = 0;
  for (; j + 8 <= columns; j += 8) f(j, _mm256_set1_epi32(-1));
  if (j < columns) f(j, lanes8(columns - j));
}

}  // namespace

void statistics(const Args& a, int64_t begin, int64_t end) {
  const bool as_is = a.scale == 1 && a.softcap == 0;
  const __m256 scale = _mm256_set1_ps(a.scale), cap = _mm256_set1_ps(a.softcap), least = _mm256_set1_ps(-INFINITY);
  for (int64_t i = begin; i < end; i++) {
    float* row = a.z + i * a.stride;
    Partial p;
    Top2 top, odd;  // two chains
    each(a.columns, [&](int64_t j, __m256i lanes) {
      __m256 z = _mm256_maskload_ps(row + j, lanes);
      if (!as_is) {
        z = _mm256_mul_ps(z, scale);
        const __m256 unordered = _mm256_cmp_ps(z, z, _CMP_UNORD_Q);
        if (a.softcap > 0) z = _mm256_blendv_ps(_mm256_mul_ps(cap, tanh8(_mm256_div_ps(z, cap))), z, unordered);
        _mm256_maskstore_ps(row + j, lanes, z);
      }
      z = _mm256_blendv_ps(least, z, _mm256_castsi256_ps(lanes));
      if (j % 16 == 0) top.add(z);
      else odd.add(z);
    });
    top.add(odd);
    top.collect(p);

    const __m256 largest = _mm256_set1_ps(p.top1);
    __m256 sum = _mm256_setzero_ps(), slope = sum, sought = _mm256_set1_ps(p.top2);
    each(a.columns, [&](int64_t j, __m256i lanes) {
      const __m256 z = _mm256_maskload_ps(row + j, lanes), inside = _mm256_castsi256_ps(lanes);
      const __m256 differs = _mm256_and_ps(_mm256_cmp_ps(z, largest, _CMP_NEQ_UQ), inside);  // not equal infinities
      const __m256 d = _mm256_max_ps(_mm256_set1_ps(kFarBelow), _mm256_and_ps(_mm256_sub_ps(z, largest), differs));
      const __m256 e = _mm256_and_ps(exp8(d), inside);  // NaN of a NaN
      sum = _mm256_add_ps(sum, e);
      slope = _mm256_fmadd_ps(d, e, slope);
      const int found = _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(z, sought, _CMP_GE_OQ), inside));
      if (__builtin_expect(found != 0, 0) && name(p, row + j, uint32_t(found), a.first + j))
        sought = _mm256_set1_ps(NAN);
    });
    p.sum = sum8(sum);
    p.slope = sum8(slope);
    if (isnan(p.sum)) p.top1 = NAN;
    a.partial[i * a.partial_stride] = p;
  }
}

}  // namespace fth::head::avx2
