#include "avx512.h"

namespace fth::linear::avx512bf16 {
namespace {

struct Dot {
  static constexpr int kParts = 1, kRows = 6;
  static constexpr int64_t kStepBytes = kPanel * 4;
  static __m512 part(int, __m512 step) { return step; }
  static __m512 weights(int, const char* w, int n) { return load_step(w + n * 64); }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return _mm512_dpbf16_ps(chain, (__m512bh)w, (__m512bh)x); }
};

struct F8 : F8Steps {
  static constexpr int kParts = 1, kRows = 4;
  static __m512 part(int, __m512 step) { return step; }
  static __m512 weights(int, const char* w, int n) { return _mm512_castsi512_ps(bf16_of_32_f8(codes(w, n))); }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return Dot::fma(chain, w, x); }
};

}  // namespace

void panels_bf16(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, Steps<Tile<Dot>, 2>>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_f8(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, EightBits<Tile<F8>, Tile<Dot>>>(a, panel_begin, panel_end, row_begin, row_end);
}

}  // namespace fth::linear::avx512bf16
