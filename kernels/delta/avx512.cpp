#include "delta.h"

#include <math.h>

#include "../simd/avx512.h"

namespace fth::delta::avx512 {
namespace {

struct Sums {
  __m512 dot = _mm512_setzero_ps(), now = dot, before = dot, step = dot, acceleration = dot;

  template <bool kSecond>
  void add(const float* x, const float* y, const float* z, __mmask16 lanes) {
    const __m512 a = _mm512_maskz_loadu_ps(lanes, x), b = _mm512_maskz_loadu_ps(lanes, y), d = _mm512_sub_ps(a, b);
    dot = _mm512_fmadd_ps(a, b, dot);
    now = _mm512_fmadd_ps(a, a, now);
    before = _mm512_fmadd_ps(b, b, before);
    step = _mm512_fmadd_ps(d, d, step);
    if (!kSecond) return;
    const __m512 e = _mm512_sub_ps(d, _mm512_sub_ps(b, _mm512_maskz_loadu_ps(lanes, z)));
    acceleration = _mm512_fmadd_ps(e, e, acceleration);
  }
};

// Two chains per sum hide the latency of the additions.
template <bool kSecond>
void row(const float* x, const float* y, const float* z, int64_t n, fth_delta_stats* out) {
  Sums a, b;
  const auto at = [z](int64_t k) { return kSecond ? z + k : nullptr; };
  int64_t k = 0;
  for (; k + 32 <= n; k += 32) {
    a.add<kSecond>(x + k, y + k, at(k), 0xffff);
    b.add<kSecond>(x + k + 16, y + k + 16, at(k + 16), 0xffff);
  }
  for (; k < n; k += 16) a.add<kSecond>(x + k, y + k, at(k), lanes16(n - k));
  *out = {sum16(_mm512_add_ps(a.dot, b.dot)), sum16(_mm512_add_ps(a.now, b.now)),
          sum16(_mm512_add_ps(a.before, b.before)), sum16(_mm512_add_ps(a.step, b.step)),
          kSecond ? sum16(_mm512_add_ps(a.acceleration, b.acceleration)) : NAN};
}

}  // namespace

void rows(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float *x = a.now + i * a.width, *y = a.before + i * a.width;
    if (a.before2 == nullptr) row<false>(x, y, nullptr, a.width, a.out + i);
    else row<true>(x, y, a.before2 + i * a.width, a.width, a.out + i);
  }
}

}  // namespace fth::delta::avx512
