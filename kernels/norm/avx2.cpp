#include "norm.h"

#include <math.h>

#include "../simd/avx2.h"

namespace fth::norm::avx2 {
namespace {

// Vectors taken together: as many chains of a sum overlap, and an optional part of a result costs one branch for all.
constexpr int kTogether = 4;
constexpr int64_t kStep = 8 * kTogether;

// Vectors are whole, or have the given lanes; the rest is zero and is not stored.
template <bool kWhole>
__m256 load(const float* p, __m256i lanes) {
  return kWhole ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes);
}

// The sum of f over a row in kTogether chains; the vectors behind the last whole step all go to the first.
template <class F>
float sum(const float* x, int64_t n, F f) {
  __m256 chain[kTogether] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  const __m256i all = _mm256_set1_epi32(-1);
  int64_t k = 0;
  for (; k + kStep <= n; k += kStep)
#pragma GCC unroll 4
    for (int c = 0; c < kTogether; c++) chain[c] = f(chain[c], all, _mm256_loadu_ps(x + k + 8 * c));
  for (; k < n; k += 8) chain[0] = f(chain[0], lanes8(n - k), _mm256_maskload_ps(x + k, lanes8(n - k)));
  return sum8(_mm256_add_ps(_mm256_add_ps(chain[0], chain[1]), _mm256_add_ps(chain[2], chain[3])));
}

struct Moments {
  __m256 mean, scale;
};

// What one row reads and writes.
struct Row {
  const float *x, *gain, *bias, *residual;
  float* y;
  uint16_t* y_bf16;
  Moments moments;
};

// N vectors from element k on; if the last is not whole, it is the only one and has `left` elements.
template <int N, bool kWhole>
inline __attribute__((always_inline)) void write(const Row& row, int64_t k, int64_t left) {
  const __m256i lanes = lanes8(left);
  __m256 y[N];
#pragma GCC unroll 4
  for (int c = 0; c < N; c++)
    y[c] = _mm256_mul_ps(_mm256_sub_ps(load<kWhole>(row.x + k + 8 * c, lanes), row.moments.mean), row.moments.scale);
  const auto each = [&](const float* p, auto f) {
    if (p == nullptr) return;
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) y[c] = f(y[c], load<kWhole>(p + k + 8 * c, lanes));
  };
  each(row.gain, [](__m256 a, __m256 b) { return _mm256_mul_ps(a, b); });
  each(row.bias, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
  each(row.residual, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
  if (row.y != nullptr)
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) {
      if (kWhole) _mm256_storeu_ps(row.y + k + 8 * c, y[c]);
      else _mm256_maskstore_ps(row.y + k, lanes, y[c]);
    }
  if (row.y_bf16 != nullptr)
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) {
      alignas(16) uint16_t eight[8];
      _mm_store_si128(reinterpret_cast<__m128i*>(eight), bf16_of_8(y[c]));
      memcpy(row.y_bf16 + k + 8 * c, eight, size_t(kWhole ? 8 : left) * 2);
    }
}

Moments moments(const Args& a, const float* x) {
  const int64_t n = a.width;
  __m256 mean = _mm256_setzero_ps();
  if (a.layer) {
    const auto add = [](__m256 chain, __m256i, __m256 x) { return _mm256_add_ps(chain, x); };
    mean = _mm256_set1_ps(sum(x, n, add) / float(n));
  }
  const float squares = sum(x, n, [&](__m256 chain, __m256i lanes, __m256 x) {
    const __m256 d = _mm256_and_ps(_mm256_sub_ps(x, mean), _mm256_castsi256_ps(lanes));
    return _mm256_fmadd_ps(d, d, chain);
  });
  return {mean, _mm256_set1_ps(1.f / sqrtf(squares / float(n) + a.eps))};
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
    for (; k + kStep <= n; k += kStep) write<kTogether, true>(row, k, 8);
    for (; k + 8 <= n; k += 8) write<1, true>(row, k, 8);
    if (k < n) write<1, false>(row, k, n - k);
    if (row.y_bf16 != nullptr && a.stride_bf16 > n) row.y_bf16[n] = 0;
  }
}

}  // namespace fth::norm::avx2
