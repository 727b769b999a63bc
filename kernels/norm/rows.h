// The rows of a norm, over the vectors V of a target: see Vector in ../simd.
#pragma once
#include <math.h>

#include "norm.h"

namespace fth::norm {
namespace {

// Vectors taken together: as many chains of a sum overlap, and an optional part of a result costs one branch for all.
constexpr int kTogether = 4;

// The sum of f over a row in kTogether chains; the vectors behind the last whole step all go to the first.
// f(chain, x, n): n lanes of x are of the row, the others are 0.
template <class V, class F>
float sum(const float* x, int64_t n, F f) {
  constexpr int64_t kLanes = V::kLanes;
  typename V::F chain[kTogether] = {V::set(0.f), V::set(0.f), V::set(0.f), V::set(0.f)};
  int64_t k = 0;
  for (; k + kTogether * kLanes <= n; k += kTogether * kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < kTogether; c++) chain[c] = f(chain[c], V::load(x + k + kLanes * c, kLanes), kLanes);
  for (; k + kLanes <= n; k += kLanes) chain[0] = f(chain[0], V::load(x + k, kLanes), kLanes);
  if (k < n) chain[0] = f(chain[0], V::load(x + k, n - k), n - k);
  return V::sum(V::add(V::add(chain[0], chain[1]), V::add(chain[2], chain[3])));
}

// What one row reads and writes.
template <class V>
struct Row {
  const float *x, *gain, *bias, *residual;
  float* y;
  uint16_t* y_bf16;
  typename V::F mean, scale;
};

template <class V>
void moments(const Args& a, Row<V>& row) {
  using F = typename V::F;
  row.mean = V::set(0.f);
  if (a.layer) {
    const auto add = [](F chain, F x, int64_t) { return V::add(chain, x); };
    row.mean = V::set(sum<V>(row.x, a.width, add) / float(a.width));
  }
  const float squares = sum<V>(row.x, a.width, [&](F chain, F x, int64_t n) {
    const F d = V::keep(V::first(n), V::sub(x, row.mean));
    return V::fma(d, d, chain);
  });
  row.scale = V::set(1.f / sqrtf(squares / float(a.width) + a.eps));
}

// N vectors from element k on, of n elements each.
template <class V, int N>
inline __attribute__((always_inline)) void write(const Row<V>& row, int64_t k, int64_t n) {
  using F = typename V::F;
  F y[N];
#pragma GCC unroll 4
  for (int c = 0; c < N; c++) y[c] = V::mul(V::sub(V::load(row.x + k + V::kLanes * c, n), row.mean), row.scale);
  const auto each = [&](const float* p, auto f) {
    if (p == nullptr) return;
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) y[c] = f(y[c], V::load(p + k + V::kLanes * c, n));
  };
  each(row.gain, [](F a, F b) { return V::mul(a, b); });
  each(row.bias, [](F a, F b) { return V::add(a, b); });
  each(row.residual, [](F a, F b) { return V::add(a, b); });
  if (row.y != nullptr)
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) V::store(row.y + k + V::kLanes * c, n, y[c]);
  if (row.y_bf16 != nullptr)
#pragma GCC unroll 4
    for (int c = 0; c < N; c++) V::store_bf16(row.y_bf16 + k + V::kLanes * c, n, y[c]);
}

template <class V>
void rows(const Args& a, int64_t begin, int64_t end) {
  constexpr int64_t kLanes = V::kLanes;
  const int64_t n = a.width;
  for (int64_t i = begin; i < end; i++) {
    const int64_t depth = a.rows == nullptr ? 0 : a.rows[i].depth;
    Row<V> row{};
    row.x = a.x + i * n;
    if (a.gain != nullptr) row.gain = a.gain + depth * n;
    if (a.bias != nullptr) row.bias = a.bias + depth * n;
    if (a.residual != nullptr) row.residual = a.residual + i * n;
    if (a.y != nullptr) row.y = a.y + i * n;
    if (a.y_bf16 != nullptr) row.y_bf16 = a.y_bf16 + i * a.stride_bf16;
    moments(a, row);

    int64_t k = 0;
    for (; k + kTogether * kLanes <= n; k += kTogether * kLanes) write<V, kTogether>(row, k, kLanes);
    for (; k + kLanes <= n; k += kLanes) write<V, 1>(row, k, kLanes);
    if (k < n) write<V, 1>(row, k, n - k);
    if (row.y_bf16 != nullptr && a.stride_bf16 > n) row.y_bf16[n] = 0;
  }
}

}  // namespace
}  // namespace fth::norm
