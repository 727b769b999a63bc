// AVX2 vectors, and what both dot products of quantised weights share.
#pragma once
#include "../simd/avx2.h"
#include "quantised.h"

namespace fth::linear {
namespace {

struct Vector {
  using F = __m256;
  static constexpr int64_t kLanes = 8;
  static F load(const float* p, int64_t n) {  // the rest is 0
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes8(n));
  }
  static void store(float* p, int64_t n, F v) {
    if (n >= 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, lanes8(n), v);
  }
  static void store_bf16(uint16_t* p, int64_t n, F v) {
    alignas(16) uint16_t eight[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(eight), bf16_of_8(v));
    memcpy(p, eight, size_t(n < 8 ? n : 8) * 2);
  }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
  static F exp(F a) { return exp8(a); }
  static F select_below(F z, float limit, F below, F otherwise) {
    return _mm256_blendv_ps(otherwise, below, _mm256_cmp_ps(z, set(limit), _CMP_LT_OQ));
  }
};

struct IntegersBase {
  using V = __m256i;
  using F = __m256;
  static constexpr int64_t kLanes = 8;
  static constexpr int kRows = 4, kScaledRows = 2;
  static constexpr int vectors(int rows) { return rows == 1 ? 4 : 2; }

  static V load_bytes(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V set_int(int32_t x) { return _mm256_set1_epi32(x); }
  static V nibbles(V w, int high) { return _mm256_and_si256(high ? _mm256_srli_epi16(w, 4) : w, _mm256_set1_epi8(15)); }

  static F scales(const char* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F to_float(V x) { return _mm256_cvtepi32_ps(x); }
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_load_ps(p); }
  static F load_scale(const float* p) { return _mm256_loadu_ps(p); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static void store(float* p, F x) { _mm256_store_ps(p, x); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace fth::linear
