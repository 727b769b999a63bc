#include "head.h"

#include <limits.h>

#include "../simd/avx512.h"

namespace fth::head::avx512 {
namespace {

// tanh within 2^-22; NaN is not kept.
__m512 tanh16(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.f), _mm512_add_ps(exp16(_mm512_add_ps(x, x)), one)));
}

// The two largest of each lane. Logits become integers in the same order, so that -inf lies above an empty place.
struct Top2 {
  __m512i first = _mm512_set1_epi32(INT_MIN), second = first;
  __m512i first_id = _mm512_set1_epi32(-1), second_id = first_id;

  static __m512i mirrored(__m512i bits) {
    return _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
  }
  void add(__mmask16 lanes, __m512 z, __m512i id) {
    z = _mm512_add_ps(z, _mm512_setzero_ps());  // -0 is +0
    const __m512i key = _mm512_mask_mov_epi32(_mm512_set1_epi32(INT_MIN), lanes, mirrored(_mm512_castps_si512(z)));
    const __mmask16 above = _mm512_cmpgt_epi32_mask(key, first), between = _mm512_cmpgt_epi32_mask(key, second);
    second = _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(second, between, key), above, first);
    second_id = _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(second_id, between, id), above, first_id);
    first = _mm512_mask_mov_epi32(first, above, key);
    first_id = _mm512_mask_mov_epi32(first_id, above, id);
  }
  void collect(Partial& p) const {
    const auto lanes = [&](__m512i keys, __m512i ids) {
      alignas(64) float value[16];
      alignas(64) int32_t id[16];
      _mm512_store_ps(value, _mm512_castsi512_ps(mirrored(keys)));
      _mm512_store_si512(id, ids);
      for (int i = 0; i < 16; i++)
        if (id[i] >= 0) insert(p, value[i], id[i]);
    };
    lanes(first, first_id);
    lanes(second, second_id);
  }
};

}  // namespace

void statistics(const Args& a, int64_t begin, int64_t end) {
  const bool as_is = a.scale == 1 && a.softcap == 0;
  const __m512 scale = _mm512_set1_ps(a.scale), cap = _mm512_set1_ps(a.softcap);
  const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t i = begin; i < end; i++) {
    float* row = a.z + i * a.stride;
    Partial p;
    Top2 top;
    __mmask16 nan = 0;
    __m512i id = _mm512_add_epi32(_mm512_set1_epi32(int(a.first)), iota);
    for (int64_t j = 0; j < a.columns; j += 16) {
      const __mmask16 lanes = lanes16(a.columns - j);
      __m512 z = _mm512_maskz_loadu_ps(lanes, row + j);
      if (!as_is) {
        z = _mm512_mul_ps(z, scale);
        const __mmask16 ordered = _mm512_cmp_ps_mask(z, z, _CMP_ORD_Q);
        if (a.softcap > 0) z = _mm512_mask_mul_ps(z, ordered, cap, tanh16(_mm512_div_ps(z, cap)));
        _mm512_mask_storeu_ps(row + j, lanes, z);
      }
      nan |= _mm512_cmp_ps_mask(z, z, _CMP_UNORD_Q);
      top.add(lanes, z, id);
      id = _mm512_add_epi32(id, _mm512_set1_epi32(16));
    }
    top.collect(p);

    const __m512 largest = _mm512_set1_ps(p.top1);
    __m512 sum = _mm512_setzero_ps(), slope = _mm512_setzero_ps();
    for (int64_t j = 0; j < a.columns; j += 16) {
      const __mmask16 lanes = lanes16(a.columns - j);
      const __m512 z = _mm512_maskz_loadu_ps(lanes, row + j);
      const __mmask16 differs = _mm512_mask_cmp_ps_mask(lanes, z, largest, _CMP_NEQ_UQ);  // not equal infinities
      const __m512 d = _mm512_max_ps(_mm512_maskz_sub_ps(differs, z, largest), _mm512_set1_ps(kFarBelow));
      const __m512 e = _mm512_maskz_mov_ps(lanes, exp16(d));
      sum = _mm512_add_ps(sum, e);
      slope = _mm512_fmadd_ps(d, e, slope);
    }
    p.sum = sum16(sum);
    p.slope = sum16(slope);
    if (nan != 0) p.top1 = NAN;
    a.partial[i * a.partial_stride] = p;
  }
}

}  // namespace fth::head::avx512
