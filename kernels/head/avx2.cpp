#include "head.h"

#include <limits.h>

#include "../simd/avx2.h"

namespace fth::head::avx2 {
namespace {

// tanh within 2^-22; NaN is not kept.
__m256 tanh8(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.f);
  return _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.f), _mm256_add_ps(exp8(_mm256_add_ps(x, x)), one)));
}

__m256i select(__m256i mask, __m256i yes, __m256i no) { return _mm256_blendv_epi8(no, yes, mask); }

// The two largest of each lane. Logits become integers in the same order, so that -inf lies above an empty place.
struct Top2 {
  __m256i first = _mm256_set1_epi32(INT_MIN), second = first;
  __m256i first_id = _mm256_set1_epi32(-1), second_id = first_id;

  static __m256i mirrored(__m256i bits) {
    return _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
  }
  void add(__m256i lanes, __m256 z, __m256i id) {
    z = _mm256_add_ps(z, _mm256_setzero_ps());  // -0 is +0
    const __m256i key = select(lanes, mirrored(_mm256_castps_si256(z)), _mm256_set1_epi32(INT_MIN));
    const __m256i above = _mm256_cmpgt_epi32(key, first), between = _mm256_cmpgt_epi32(key, second);
    second = select(above, first, select(between, key, second));
    second_id = select(above, first_id, select(between, id, second_id));
    first = select(above, key, first);
    first_id = select(above, id, first_id);
  }
  void collect(Partial& p) const {
    const auto lanes = [&](__m256i keys, __m256i ids) {
      alignas(32) float value[8];
      alignas(32) int32_t id[8];
      _mm256_store_ps(value, _mm256_castsi256_ps(mirrored(keys)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(id), ids);
      for (int i = 0; i < 8; i++)
        if (id[i] >= 0) insert(p, value[i], id[i]);
    };
    lanes(first, first_id);
    lanes(second, second_id);
  }
};

}  // namespace

void statistics(const Args& a, int64_t begin, int64_t end) {
  const bool as_is = a.scale == 1 && a.softcap == 0;
  const __m256 scale = _mm256_set1_ps(a.scale), cap = _mm256_set1_ps(a.softcap);
  const auto lanes_at = [&](int64_t j) { return lanes8(a.columns - j < 8 ? a.columns - j : 8); };
  for (int64_t i = begin; i < end; i++) {
    float* row = a.z + i * a.stride;
    Partial p;
    Top2 top;
    __m256 nan = _mm256_setzero_ps();
    __m256i id = _mm256_add_epi32(_mm256_set1_epi32(int(a.first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int64_t j = 0; j < a.columns; j += 8) {
      const __m256i lanes = lanes_at(j);
      __m256 z = _mm256_maskload_ps(row + j, lanes);
      if (!as_is) {
        z = _mm256_mul_ps(z, scale);
        const __m256 unordered = _mm256_cmp_ps(z, z, _CMP_UNORD_Q);
        if (a.softcap > 0) z = _mm256_blendv_ps(_mm256_mul_ps(cap, tanh8(_mm256_div_ps(z, cap))), z, unordered);
        _mm256_maskstore_ps(row + j, lanes, z);
      }
      nan = _mm256_or_ps(nan, _mm256_cmp_ps(z, z, _CMP_UNORD_Q));
      top.add(lanes, z, id);
      id = _mm256_add_epi32(id, _mm256_set1_epi32(8));
    }
    top.collect(p);

    const __m256 largest = _mm256_set1_ps(p.top1);
    __m256 sum = _mm256_setzero_ps(), slope = _mm256_setzero_ps();
    for (int64_t j = 0; j < a.columns; j += 8) {
      const __m256i lanes = lanes_at(j);
      const __m256 z = _mm256_maskload_ps(row + j, lanes);
      const __m256 inside = _mm256_castsi256_ps(lanes);
      const __m256 differs = _mm256_and_ps(_mm256_cmp_ps(z, largest, _CMP_NEQ_UQ), inside);  // not equal infinities
      const __m256 d = _mm256_and_ps(_mm256_max_ps(_mm256_sub_ps(z, largest), _mm256_set1_ps(kFarBelow)), differs);
      const __m256 e = _mm256_and_ps(exp8(d), inside);
      sum = _mm256_add_ps(sum, e);
      slope = _mm256_fmadd_ps(d, e, slope);
    }
    p.sum = sum8(sum);
    p.slope = sum8(slope);
    if (_mm256_movemask_ps(nan) != 0) p.top1 = NAN;
    a.partial[i * a.partial_stride] = p;
  }
}

}  // namespace fth::head::avx2
