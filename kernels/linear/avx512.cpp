#include "avx512.h"
#include "codes.h"

namespace fth::linear::avx512 {
namespace {

struct F32 {
  static constexpr int kParts = 1, kRows = 6;
  static __m512 part(int, __m512 step) { return step; }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return _mm512_fmadd_ps(w, x, chain); }
};

// A pair of bf16 widened to fp32: the even k, then the odd.
struct Bf16 {
  static constexpr int kParts = 2, kRows = 5;
  static __m512 part(int odd, __m512 step) {
    const __m512i bits = _mm512_castps_si512(step);
    return _mm512_castsi512_ps(odd ? _mm512_and_si512(bits, _mm512_set1_epi32(int(0xffff0000u)))
                                   : _mm512_slli_epi32(bits, 16));
  }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return _mm512_fmadd_ps(w, x, chain); }
};

}  // namespace

void panels_f32(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, Steps<Tile<F32>, 1>>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_bf16(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, Steps<Tile<Bf16>, 2>>(a, panel_begin, panel_end, row_begin, row_end);
}

void round(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < k; i += 16)
      Vector::store_bf16(y + row * y_stride + i, k - i, Vector::load(x + row * x_stride + i, k - i));
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

void quantise(const float* x, int64_t k, Codes* y, int64_t begin, int64_t end) {
  constexpr int64_t kVectors = Codes::kSize / 16, kOfGroup = kGroup / 16;
  const int64_t blocks = (k + Codes::kSize - 1) / Codes::kSize;
  for (int64_t row = begin; row < end; row++)
    for (int64_t b = 0; b < blocks; b++) {
      const float* from = x + row * k + b * Codes::kSize;
      const int64_t count = k - b * Codes::kSize;  // all from Codes::kSize on
      Codes& to = y[row * blocks + b];
      __m512 v[kVectors];
      __m512i most = _mm512_setzero_si512();  // |x| as integers: NaN is above infinity
      for (int64_t i = 0; i < kVectors; i++) {
        v[i] = Vector::load(from + i * 16, count - i * 16);
        most = _mm512_max_epi32(most, _mm512_castps_si512(Vector::abs(v[i])));
      }
      const __m512 inverse = _mm512_set1_ps(begin_codes(to, _mm512_reduce_max_epi32(most)));
      for (int64_t g = 0; g < kGroups; g++) {
        __m512i sum = _mm512_setzero_si512();
        for (int64_t i = g * kOfGroup; i < (g + 1) * kOfGroup; i++) {
          const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
          sum = _mm512_add_epi32(sum, code);
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to.code + i * 16), _mm512_cvtsepi32_epi8(code));
        }
        to.minus_sum[g] = int32_t(-uint32_t(_mm512_reduce_add_epi32(sum)));
      }
    }
}

}  // namespace fth::linear::avx512
