// What the storage types make of numbers, written a second time, from their definitions.
#pragma once
#include <math.h>

#include <cstdint>

#include "fathom/fathom.h"
#include "simd/scalar.h"

namespace {

// The types of weights.
constexpr int32_t kTypes[] = {FTH_F32, FTH_BF16, FTH_I8, FTH_Q8_0, FTH_Q4_0, FTH_F8_E4M3};

inline double bf16(float v) { return float_of_bf16(bf16_of_float(v)); }

// A number near v with so many significant bits, halves to even; below 2^(least - 1) the units of 2^(least - 1).
inline double near(float v, int digits, int least) {
  if (v == 0) return 0;
  int exponent;
  frexp(v, &exponent);
  const double unit = ldexp(1, (exponent < least ? least : exponent) - digits);
  return nearbyint(v / unit) * unit;
}
inline double f16(float v) { return near(v, 11, -13); }
inline double e4m3(float v) { return fmax(-448, fmin(448, near(v, 4, -5))); }

// What a row of W is after packing.
inline void store_weights(int32_t type, const float* w, int64_t in, double* out) {
  const int64_t group = type == FTH_Q8_0 || type == FTH_Q4_0 ? 32 : in;
  for (int64_t first = 0; first < in; first += group) {
    const int64_t end = first + group < in ? first + group : in;
    float most = 0;
    for (int64_t i = first; i < end; i++)
      if (fabsf(w[i]) > fabsf(most)) most = w[i];
    for (int64_t i = first; i < end; i++) {
      if (type == FTH_F32) out[i] = w[i];
      if (type == FTH_BF16) out[i] = bf16(w[i]);
      if (type == FTH_I8) out[i] = nearbyintf(w[i] * (127 / fabsf(most))) * (fabsf(most) / 127);
      if (type == FTH_F8_E4M3) out[i] = e4m3(w[i] * (448 / fabsf(most))) * (fabsf(most) / 448);
      if (type == FTH_Q8_0) out[i] = roundf(w[i] * (1 / (fabsf(most) / 127))) * f16(fabsf(most) / 127);
      if (type == FTH_Q4_0) {
        const float code = floorf(w[i] * (1 / (most / -8)) + 8.5f);
        out[i] = (fminf(fmaxf(code, 0), 15) - 8) * f16(most / -8);
      }
    }
  }
}

// What a product reads of a row of x.
inline void store_input(int32_t type, const float* x, int64_t in, double* out) {
  const int64_t span = type == FTH_I8 ? 512 : 128;  // whose codes have one scale
  for (int64_t first = 0; first < in; first += span) {
    float most = 0;
    const int64_t end = first + span < in ? first + span : in;
    for (int64_t i = first; i < end; i++) most = fmaxf(most, fabsf(x[i]));
    for (int64_t i = first; i < end; i++)
      out[i] = type == FTH_F32    ? x[i]
               : type == FTH_BF16 || type == FTH_F8_E4M3 ? bf16(x[i])
               : most == 0        ? 0
                                  : nearbyintf(x[i] * (127 / most)) * double(most / 127);
  }
}

}  // namespace
