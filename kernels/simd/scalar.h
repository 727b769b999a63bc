// Conversions that every target shares. Everything here has internal linkage: code compiled for one instruction set
// must never be the copy that the linker keeps for another.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of_bf16(uint16_t x) { return float_of_bits(uint32_t(x) << 16); }

// Round to nearest even; NaN stays NaN.
inline uint16_t bf16_of_float(float x) {
  const uint32_t bits = bits_of_float(x);
  const uint32_t nan = bits >> 16 | 0x40, rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

inline float float_of_f16(uint16_t x) {
  const uint32_t sign = uint32_t(x & 0x8000) << 16, exponent = x >> 10 & 31, mantissa = x & 0x3ff;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float tiny = float(mantissa) * 0x1p-24f;  // subnormal: exact in fp32
  return sign ? -tiny : tiny;
}

}  // namespace
