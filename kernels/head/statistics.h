// Logits and their partials, over the vectors V of a target: see Vector in ../simd.
#pragma once
#include <math.h>

#include "head.h"

namespace fth::head {
namespace {

// tanh within 2^-22; NaN is not kept.
template <class V>
typename V::F tanh(typename V::F x) {
  const typename V::F one = V::set(1.f);
  return V::sub(one, V::div(V::set(2.f), V::add(V::exp(V::add(x, x)), one)));
}

// The two largest values of each lane; an equal one counts again. NaN is passed over.
template <class V>
struct Top2 {
  typename V::F first = V::set(-INFINITY), second = first;

  void add(typename V::F z) {
    second = V::max(V::min(z, first), second);
    first = V::max(z, first);
  }
  void add(const Top2& other) {
    second = V::max(V::min(first, other.first), V::max(second, other.second));
    first = V::max(first, other.first);
  }
  void collect(Partial& p) const {
    p.top1 = V::largest(first) + 0.f;  // -0 is +0
    const typename V::M holds = V::equal(first, V::set(p.top1));
    const bool twice = (V::bits(holds) & (V::bits(holds) - 1)) != 0;
    p.top2 = twice ? p.top1 : V::largest(V::select(holds, second, first)) + 0.f;
  }
};

// f(j, n) for the vectors of a row: n elements from j on.
template <class V, class F>
inline __attribute__((always_inline)) void each(int64_t columns, F f) {
  int64_t j = 0;
  for (; j + V::kLanes <= columns; j += V::kLanes) f(j, V::kLanes);
  if (j < columns) f(j, columns - j);
}

template <class V>
void statistics(const Args& a, int64_t begin, int64_t end) {
  using F = typename V::F;
  using M = typename V::M;
  const bool as_is = a.scale == 1 && a.softcap == 0;
  const F scale = V::set(a.scale), cap = V::set(a.softcap), least = V::set(-INFINITY);
  for (int64_t i = begin; i < end; i++) {
    float* row = a.z + i * a.stride;
    Partial p;
    Top2<V> top, odd;  // two chains
    each<V>(a.columns, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
      F z = V::load(row + j, n);
      if (!as_is) {
        z = V::mul(z, scale);
        if (a.softcap > 0) z = V::select(V::equal(z, z), V::mul(cap, tanh<V>(V::div(z, cap))), z);
        V::store(row + j, n, z);
      }
      z = V::select(V::first(n), z, least);
      if (j % (2 * V::kLanes) == 0) top.add(z);
      else odd.add(z);
    });
    top.add(odd);
    top.collect(p);

    const F largest = V::set(p.top1);
    F sum = V::set(0.f), slope = sum, sought = V::set(p.top2);
    each<V>(a.columns, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
      const F z = V::load(row + j, n);
      const M inside = V::first(n), differs = V::both(V::differ(z, largest), inside);  // not equal infinities
      const F d = V::max(V::set(kFarBelow), V::keep(differs, V::sub(z, largest)));
      const F e = V::keep(inside, V::exp(d));  // NaN of a NaN
      sum = V::add(sum, e);
      slope = V::fma(d, e, slope);
      const uint32_t found = V::bits(V::both(V::at_least(z, sought), inside));
      if (__builtin_expect(found != 0, 0) && name(p, row + j, found, a.first + j)) sought = V::set(NAN);
    });
    p.sum = V::sum(sum);
    p.slope = V::sum(slope);
    if (isnan(p.sum)) p.top1 = NAN;
    a.partial[i * a.partial_stride] = p;
  }
}

}  // namespace
}  // namespace fth::head
