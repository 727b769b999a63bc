// Steps of quantising a row of x that all targets share.
#pragma once
#include "../simd/scalar.h"
#include "linear.h"

namespace fth::linear {
namespace {

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

// Sets the scale for the bits of max|x|; returns what x is to be multiplied by.
inline float begin_codes(Codes& to, int32_t most_bits) {
  const FixedPoint fixed = fixed_point(uint32_t(most_bits), 127);
  to.scale = fixed.unit;
  memset(to.unused, 0, sizeof to.unused);
  return fixed.steps;
}

}  // namespace
}  // namespace fth::linear
