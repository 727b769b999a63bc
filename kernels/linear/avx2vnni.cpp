// Quantised weights with the AVX-VNNI dot product.
#include "avx2.h"

namespace fth::linear::avx2vnni {
namespace {

struct Integers : IntegersBase {
  using Weights = V;
  template <int kOffsetBits>
  static V offset(int32_t minus_sum) { return _mm256_slli_epi32(_mm256_set1_epi32(minus_sum), kOffsetBits); }
  template <int kOffsetBits>
  static Weights weights(V stored) { return stored; }
  static void dot(V& sum, Weights w, V codes) { asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(codes)); }
};

}  // namespace

void panels_quantised(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  codes_panels<Vector, Integers>(a, panel_begin, panel_end, row_begin, row_end);
}

}  // namespace fth::linear::avx2vnni
