#include "delta.h"

#include <math.h>

#include "../simd/avx2.h"

namespace fth::delta::avx2 {
namespace {

struct Sums {
  __m256 dot = _mm256_setzero_ps(), now = dot, before = dot, step = dot, acceleration = dot;

  template <bool kSecond>
  void add(__m256 a, __m256 b, __m256 c) {
    const __m256 d = _mm256_sub_ps(a, b);
    dot = _mm256_fmadd_ps(a, b, dot);
    now = _mm256_fmadd_ps(a, a, now);
    before = _mm256_fmadd_ps(b, b, before);
    step = _mm256_fmadd_ps(d, d, step);
    if (!kSecond) return;
    const __m256 e = _mm256_sub_ps(d, _mm256_sub_ps(b, c));
    acceleration = _mm256_fmadd_ps(e, e, acceleration);
  }
};

// Two chains per sum hide the latency of the additions.
template <bool kSecond>
void row(const float* x, const float* y, const float* z, int64_t n, fth_delta_stats* out) {
  Sums a, b;
  const __m256 none = _mm256_setzero_ps();
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    a.add<kSecond>(_mm256_loadu_ps(x + k), _mm256_loadu_ps(y + k), kSecond ? _mm256_loadu_ps(z + k) : none);
    b.add<kSecond>(_mm256_loadu_ps(x + k + 8), _mm256_loadu_ps(y + k + 8), kSecond ? _mm256_loadu_ps(z + k + 8) : none);
  }
  for (; k < n; k += 8) {
    const __m256i lanes = lanes8(n - k < 8 ? n - k : 8);
    a.add<kSecond>(_mm256_maskload_ps(x + k, lanes), _mm256_maskload_ps(y + k, lanes),
                   kSecond ? _mm256_maskload_ps(z + k, lanes) : none);
  }
  *out = {sum8(_mm256_add_ps(a.dot, b.dot)), sum8(_mm256_add_ps(a.now, b.now)),
          sum8(_mm256_add_ps(a.before, b.before)), sum8(_mm256_add_ps(a.step, b.step)),
          kSecond ? sum8(_mm256_add_ps(a.acceleration, b.acceleration)) : NAN};
}

}  // namespace

void rows(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float *x = a.now + i * a.width, *y = a.before + i * a.width;
    if (a.before2 == nullptr) row<false>(x, y, nullptr, a.width, a.out + i);
    else row<true>(x, y, a.before2 + i * a.width, a.width, a.out + i);
  }
}

}  // namespace fth::delta::avx2
