// The walk over items and heads that the targets share. Sixteen items whose entries follow one another in a page are
// stored together, in whole vectors. V makes columns of K:
//   turn<T>  words [0, words) of sixteen rows become columns of a K tile of T, from `to` on
#pragma once
#include <cstring>

#include "../simd/scalar.h"
#include "kv.h"
#include "run.h"

namespace fth::kv {
namespace {

// Sixteen sides in words of 4 bytes: one f32, two bf16, four int8.
template <typename T>
using Sides = uint32_t[kRun][kMostHeadDim * sizeof(T) / 4];

// One head of an item. `stored` converts a side, whose length n is a multiple of 8, and returns its scale.
inline float stored(const float* x, int64_t n, float* to) {
  memcpy(to, x, size_t(n) * 4);
  return 1;
}
inline float stored(const float* x, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; i += 8)
    for (int64_t j = 0; j < 8; j++) to[i + j] = bf16_of_float(x[i + j]);
  return 1;
}
inline float stored(const float* x, int64_t n, int8_t* to) {
  uint32_t most[8] = {};
  for (int64_t i = 0; i < n; i += 8)
    for (int64_t j = 0; j < 8; j++) {
      const uint32_t size = bits_of_float(x[i + j]) & 0x7fffffffu;
      most[j] = size > most[j] ? size : most[j];
    }
  for (int64_t j = 1; j < 8; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
  const FixedPoint fixed = fixed_point(most[0], 127);
  if (fixed.steps == 0) {
    memset(to, 0, size_t(n));
    return fixed.unit;
  }
  // Beside 1.5 * 2^23 the last bit of a number is worth 1, so that the sum's low byte is the rounded number.
  for (int64_t i = 0; i < n; i += 8)
    for (int64_t j = 0; j < 8; j++) to[i + j] = int8_t(bits_of_float(x[i + j] * fixed.steps + 12582912.f));
  return fixed.unit;
}

// Where one head of a page is.
template <typename T>
struct Page {
  T *k, *v;
  float *k_scale, *v_scale;  // int8
  Page(const Pool& p, int64_t page, int64_t layer, int64_t head)
      : k(reinterpret_cast<T*>(tile(p, page, layer, head))),
        v(k + k_tile_bytes(p) / int64_t(sizeof(T))),
        k_scale(reinterpret_cast<float*>(v + v_tile_bytes(p) / int64_t(sizeof(T)))),
        v_scale(k_scale + kPage) {}
};

template <typename T>
void write_one(const Page<T>& page, int64_t head_dim, int64_t key, const float* k, const float* v) {
  constexpr bool kPairs = sizeof(T) < 4;
  constexpr int64_t kTogether = kPairs ? 2 : 1;  // dims that stand side by side in K
  T side[kMostHeadDim];
  const float k_scale = stored(k, head_dim, side);
  for (int64_t d = 0; d < head_dim; d += kTogether)
    memcpy(page.k + k_index(kPairs, key, d), side + d, kTogether * sizeof(T));
  const float v_scale = stored(v, head_dim, side);
  for (int64_t block = 0; block < head_dim; block += 64) {
    T* to = page.v + v_index(kPairs, head_dim, key, block);
    const int64_t count = head_dim - block < 64 ? head_dim - block : 64;
    for (int64_t c = 0; c < count; c++) to[c * kTogether] = side[block + c];
  }
  if (sizeof(T) == 1) {
    page.k_scale[key] = k_scale;
    page.v_scale[key] = v_scale;
  }
}

// Keys [key, key + kRun), key is even; k and v are `stride` floats apart.
template <class V, typename T>
void write_run(const Page<T>& page, int64_t head_dim, int64_t key, const float* k, const float* v, int64_t stride) {
  constexpr bool kPairs = sizeof(T) < 4;
  alignas(64) Sides<T> sides;
  const auto side = [&](int64_t i) { return reinterpret_cast<T*>(sides[i]); };
  const auto convert = [&](const float* from, float* scale) {
    for (int64_t i = 0; i < kRun; i++) {
      const float unit = stored(from + i * stride, head_dim, side(i));
      if (sizeof(T) == 1) scale[key + i] = unit;
    }
  };
  convert(k, page.k_scale);
  const char* rows[kRun];
  for (int64_t i = 0; i < kRun; i++) rows[i] = reinterpret_cast<const char*>(sides[i]);
  V::template turn<T>(rows, head_dim * int64_t(sizeof(T)) / 4,
                      reinterpret_cast<char*>(page.k + k_index(kPairs, key, 0)));
  convert(v, page.v_scale);
  for (int64_t block = 0; block < head_dim; block += 64) {
    const int64_t count = head_dim - block < 64 ? head_dim - block : 64;
    for (int64_t i = 0; i < kRun; i += kPairs ? 2 : 1) {
      T* to = page.v + v_index(kPairs, head_dim, key + i, block);
      if constexpr (kPairs) interleave(side(i) + block, side(i + 1) + block, count, to);
      else memcpy(to, side(i) + block, size_t(count) * 4);
    }
  }
}

template <class V, typename T>
void write_type(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  const Pool& pool = a.pool;
  const int64_t head_dim = pool.head_dim;
  int64_t n;
  for (int64_t i = begin; i < end; i += n) {
    n = 1;
    const int64_t entry = a.entry[i * a.entry_stride];
    if (entry < 0) continue;
    if (entry % 2 == 0 && entry % kPage <= kPage - kRun)
      while (n < kRun && i + n < end && a.entry[(i + n) * a.entry_stride] == entry + n) n++;
    if (n < kRun) n = 1;
    for (int64_t head = 0; head < pool.kv_heads; head++) {
      const Page<T> page(pool, entry / kPage, a.layer, head);
      const int64_t from = i * stride + head * head_dim;
      if (n == kRun) write_run<V>(page, head_dim, entry % kPage, k + from, v + from, stride);
      else write_one(page, head_dim, entry % kPage, k + from, v + from);
    }
  }
}

template <class V>
void write_rows(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  if (a.pool.type == FTH_F32) write_type<V, float>(a, k, v, stride, begin, end);
  else if (a.pool.type == FTH_BF16) write_type<V, uint16_t>(a, k, v, stride, begin, end);
  else write_type<V, int8_t>(a, k, v, stride, begin, end);
}

}  // namespace
}  // namespace fth::kv
