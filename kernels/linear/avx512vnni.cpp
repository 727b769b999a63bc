// Quantised weights with the AVX-512 VNNI dot product.
#include "avx512.h"
#include "quantised.h"

namespace fth::linear::avx512vnni {
namespace {

struct Integers {
  using V = __m512i;
  using F = __m512;
  using Weights = V;
  static constexpr int64_t kLanes = 16;
  static constexpr int kRows = 6, kScaledRows = 6;
  static constexpr int vectors(int rows, bool scaled) { return scaled && rows > 3 ? 2 : 4; }

  static V load_bytes(const char* p) {
    V w = _mm512_loadu_si512(p);
    asm("" : "+v"(w));  // or GCC loads it again for every row
    return w;
  }
  static V set_int(int32_t x) { return _mm512_set1_epi32(x); }
  static V nibbles(V w, int high) { return _mm512_and_si512(high ? _mm512_srli_epi16(w, 4) : w, _mm512_set1_epi8(15)); }
  template <int kOffsetBits>
  static V offset(int32_t minus_sum) { return _mm512_slli_epi32(_mm512_set1_epi32(minus_sum), kOffsetBits); }
  template <int kOffsetBits>
  static Weights weights(V stored) { return stored; }
  // Not the intrinsic: GCC copies its accumulators around, to the stack and back when there are many.
  static void dot(V& sum, Weights w, V codes) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(codes)); }

  static V load_sum(const int32_t* p) { return _mm512_load_si512(p); }
  static void store_sum(int32_t* p, V x) { _mm512_store_si512(p, x); }

  static F scales(const char* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F to_float(V x) { return _mm512_cvtepi32_ps(x); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_load_ps(p); }
  static F load_scale(const float* p) { return _mm512_loadu_ps(p); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static void store(float* p, F x) { _mm512_store_ps(p, x); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

void panels_quantised(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  codes_panels<Vector, Integers>(a, panel_begin, panel_end, row_begin, row_end);
}

}  // namespace fth::linear::avx512vnni
