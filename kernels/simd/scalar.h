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

// FP8 e4m3 as OCP defines it: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 0x7f and 0xff are NaN.
// The same bits as fp16 are the number / 256; NaN reads as 480 there.
inline uint16_t f16_of_e4m3(uint8_t x) { return uint16_t((x & 0x80) << 8 | (x & 0x7f) << 7); }
inline bool is_nan_e4m3(uint8_t x) { return (x & 0x7f) == 0x7f; }
// Round to nearest even; beyond 448 it is 448, of what is no number 0.
inline uint8_t e4m3_of_float(float x) {
  const uint32_t bits = bits_of_float(x), sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
  const float magnitude = float_of_bits(size);
  if (!(magnitude < 448)) return uint8_t(size > 0x7f800000u ? 0 : sign | 0x7e);
  if (magnitude < 0x1p-6f)  // subnormal: the sum's last bits are the result, rounded by the addition
    return uint8_t(sign | (bits_of_float(magnitude + 0x1p14f) - bits_of_float(0x1p14f)));
  return uint8_t(sign | (((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120 << 3)));
}

// Numbers as multiples of a unit, of which the largest has `count`: round(x * steps) * unit. `largest`: |x| of the
// largest as bits, which order as the numbers do. Below 2^-100 all are 0; not finite makes the unit not-a-number.
struct FixedPoint {
  float steps, unit;
};
inline FixedPoint fixed_point(uint32_t largest, float count) {
  if (largest >= 0x7f800000u) return {0.f, float_of_bits(0x7fc00000u)};
  if (largest < 0x0d800000u) return {0.f, 0.f};
  return {count / float_of_bits(largest), float_of_bits(largest) / count};
}

}  // namespace
