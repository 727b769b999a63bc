// What both dot products of quantised weights share on AVX2.
#pragma once
#include "../simd/avx2.h"
#include "quantised.h"

namespace fth::linear {
namespace {

struct IntegersBase {
  using V = __m256i;
  using F = __m256;
  static constexpr int64_t kLanes = 8;
  static constexpr int kRows = 4, kScaledRows = 2;
  static constexpr int vectors(int rows, bool) { return rows == 1 ? 4 : 2; }

  static V load_bytes(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V set_int(int32_t x) { return _mm256_set1_epi32(x); }
  static V nibbles(V w, int high) { return _mm256_and_si256(high ? _mm256_srli_epi16(w, 4) : w, _mm256_set1_epi8(15)); }

  static V load_sum(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const V*>(p)); }
  static void store_sum(int32_t* p, V x) { _mm256_store_si256(reinterpret_cast<V*>(p), x); }

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
