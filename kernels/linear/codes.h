// Steps of quantising a row of x that all targets share.
#pragma once
#include "../simd/scalar.h"
#include "linear.h"

namespace fth::linear {
namespace {

// Where the codes and scales of a span go.
struct Span {
  int64_t units;
  int8_t* code;
  Scale* scale;
};

// Calls body(x, count, span) for every span of the rows [begin, end): the row from the span's begin on, and how many
// elements of it there are.
template <class F>
void spans(const float* x, int64_t k, int64_t span, char* y, int64_t begin, int64_t end, F body) {
  const int64_t all = units(k);
  for (int64_t row = begin; row < end; row++)
    for (int64_t first = 0; first < all; first += span) {
      const int64_t count = all - first < span ? all - first : span, element = first * kCodeUnit;
      char* const to = y + (row * all + first) * kUnitBytes;
      body(x + row * k + element, k - element,
           Span{count, reinterpret_cast<int8_t*>(to), reinterpret_cast<Scale*>(to + count * kCodeUnit)});
    }
}

inline int32_t largest_of(const int32_t* x, int count) {
  int32_t most = x[0];
  for (int i = 1; i < count; i++) most = x[i] > most ? x[i] : most;
  return most;
}
inline int32_t minus_sum_of(const int32_t* x, int count) {
  uint32_t sum = 0;
  for (int i = 0; i < count; i++) sum += uint32_t(x[i]);
  return int32_t(-sum);
}

// For the bits of max|x| of the span; returns what x is to be multiplied by.
inline float begin_span(const Span& span, int32_t most_bits) {
  const FixedPoint fixed = fixed_point(uint32_t(most_bits), 127);
  for (int64_t u = 0; u < span.units; u++) span.scale[u] = {fixed.unit, {}, 0, {}};
  return fixed.steps;
}
// Once each group's minus_sum is there. (Those of numbers that are none wrap around.)
inline void end_span(const Span& span) {
  uint32_t all = 0;
  for (int64_t u = 0; u < span.units; u++)
    for (int32_t sum : span.scale[u].minus_sum) all += uint32_t(sum);
  span.scale->minus_span = int32_t(all);
}

}  // namespace
}  // namespace fth::linear
