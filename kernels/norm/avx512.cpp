#include "norm.h"

#include <math.h>

#include "../simd/avx512.h"

namespace fth::norm::avx512 {
namespace {

// Vectors taken together: as many chains of a sum overlap, and an optional part of a result costs one branch for all.
constexpr int kTogether = 4;
constexpr int64_t kStep = 16 * kTogether;

// The sum of f over a row in kTogether chains; the vectors behind the last whole step all go to the first.
template <class F>
float sum(const float* x, int64_t n, F f) {
  __m512 chain[kTogether] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t k = 0;
  for (; k + kStep <= n; k += kStep)
#pragma GCC unroll 4
    for (int c = 0; c < kTogether; c++) chain[c] = f(chain[c], __mmask16(0xffff), _mm512_loadu_ps(x + k + 16 * c));
  for (; k < n; k += 16) chain[0] = f(chain[0], lanes16(n - k), _mm512_maskz_loadu_ps(lanes16(n - k), x + k));
  return sum16(_mm512_add_ps(_mm512_add_ps(chain[0], chain[1]), _mm512_add_ps(chain[2], chain[3])));
}

struct Moments {
  __m512 mean, scale;
};

// What one row reads and writes.
struct Row {
  const float *x, *gain, *bias, *residual;
  float* y;
  uint16_t* y_bf16;
  Moments moments;
};

// N vectors from element k on, of `lanes` each.
template <int N>
inline __attribute__((always_inline)) void write(const Row& row, int64_t k, __mmask16 lanes) {
  __m512 y[N];
#pragma GCC unroll 4
  for (int c = 0; c < N; c++) {
    const __m512 x = _mm512_maskz_loadu_ps(lanes, row.x + k + 16 * c);
    y[c] = _mm512_mul_ps(_mm512_sub_ps(x, row.moments.mean), row.moments.scale);
  }
  const auto each = [&](const float* p, auto f) {
    if (p == nullptr) return;
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) y[c] = f(y[c], _mm512_maskz_loadu_ps(lanes, p + k + 16 * c));
  };
  each(row.gain, [](__m512 a, __m512 b) { return _mm512_mul_ps(a, b); });
  each(row.bias, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
  each(row.residual, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
  if (row.y != nullptr)
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) _mm512_mask_storeu_ps(row.y + k + 16 * c, lanes, y[c]);
  if (row.y_bf16 != nullptr)
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) _mm256_mask_storeu_epi16(row.y_bf16 + k + 16 * c, lanes, bf16_of_16(y[c]));
}

Moments moments(const Args& a, const float* x) {
  const int64_t n = a.width;
  __m512 mean = _mm512_setzero_ps();
  if (a.layer) {
    const auto add = [](__m512 chain, __mmask16, __m512 x) { return _mm512_add_ps(chain, x); };
    mean = _mm512_set1_ps(sum(x, n, add) / float(n));
  }
  const float squares = sum(x, n, [&](__m512 chain, __mmask16 lanes, __m512 x) {
    const __m512 d = _mm512_maskz_sub_ps(lanes, x, mean);
    return _mm512_fmadd_ps(d, d, chain);
  });
  return {mean, _mm512_set1_ps(1.f / sqrtf(squares / float(n) + a.eps))};
}

}  // namespace

void rows(const Args& a, int64_t begin, int64_t end) {
  const int64_t n = a.width;
  for (int64_t i = begin; i < end; i++) {
    const int64_t depth = a.rows == nullptr ? 0 : a.rows[i].depth;
    Row row{};
    row.x = a.x + i * n;
    if (a.gain != nullptr) row.gain = a.gain + depth * n;
    if (a.bias != nullptr) row.bias = a.bias + depth * n;
    if (a.residual != nullptr) row.residual = a.residual + i * n;
    if (a.y != nullptr) row.y = a.y + i * n;
    if (a.y_bf16 != nullptr) row.y_bf16 = a.y_bf16 + i * a.stride_bf16;
    row.moments = moments(a, row.x);

    int64_t k = 0;
    for (; k + kStep <= n; k += kStep) write<kTogether>(row, k, 0xffff);
    for (; k < n; k += 16) write<1>(row, k, lanes16(n - k));
    if (row.y_bf16 != nullptr && a.stride_bf16 > n) row.y_bf16[n] = 0;
  }
}

}  // namespace fth::norm::avx512
