// Helpers for AVX-512 (F, BW, DQ, VL) kernels. Internal linkage throughout.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "scalar.h"

namespace {

// Lanes [0, n) set, any n: none below 1, all from 16 on.
inline __mmask16 lanes16(int64_t n) {
  return n >= 16 ? __mmask16(0xffff) : n <= 0 ? __mmask16(0) : __mmask16((1u << n) - 1);
}

// Fixed order: halves, quarters, ...
inline float sum16(__m512 v) { return _mm512_reduce_add_ps(v); }
inline float max16(__m512 v) { return _mm512_reduce_max_ps(v); }

// exp(x) for any x or -inf: x = n ln2 + r with |r| <= ln2/2, exp(r) by a degree-6 polynomial (relative error about
// 2^-23), times 2^n. NaN stays NaN.
inline __m512 exp16(__m512 x) {
  x = _mm512_min_ps(_mm512_set1_ps(88.722839f), _mm512_max_ps(_mm512_set1_ps(-104.f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);  // Cody-Waite: ln2 in two parts
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.3888889e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3333333e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1666667e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666667e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(p, n);
}

// Sixteen floats to bf16, round to nearest even (NaN stays NaN).
inline __m256i bf16_of_16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
inline __m512 float_of_16_bf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// Sixteen floats. M: a choice of lanes. Whole vectors are not loaded under a mask: Zen 5 does not run ahead of masked
// loads, and loops over memory are twice as slow with them.
struct Vector {
  using F = __m512;
  using M = __mmask16;
  static constexpr int64_t kLanes = 16;
  static F load(const float* p, int64_t n) {  // the rest is 0
    return n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes16(n), p);
  }
  static void store(float* p, int64_t n, F v) {
    if (n >= 16) _mm512_storeu_ps(p, v);
    else _mm512_mask_storeu_ps(p, lanes16(n), v);
  }
  static void store_bf16(uint16_t* p, int64_t n, F v) { _mm256_mask_storeu_epi16(p, lanes16(n), bf16_of_16(v)); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }  // b if one is not a number, as max
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F exp(F a) { return exp16(a); }
  static float sum(F a) { return sum16(a); }
  static float largest(F a) { return max16(a); }

  static M first(int64_t n) { return lanes16(n); }
  static M below(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static M equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static M differ(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }  // NaN from all
  static M both(M a, M b) { return a & b; }
  static uint32_t bits(M m) { return m; }
  static F select(M m, F a, F otherwise) { return _mm512_mask_blend_ps(m, otherwise, a); }
  static F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }  // 0 elsewhere
};

}  // namespace
