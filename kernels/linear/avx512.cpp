#include "avx512.h"

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
  panels_of_f32<Vector, Tile<F32>>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_bf16(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels_of_bf16<Vector, Tile<Bf16>>(a, panel_begin, panel_end, row_begin, row_end);
}

void round(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < k; i += 16)
      Vector::store_bf16(y + row * y_stride + i, k - i, Vector::load(x + row * x_stride + i, k - i));
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

}  // namespace fth::linear::avx512
