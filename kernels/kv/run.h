// How rows of keys that follow one another get into a tile.
#pragma once
#include <emmintrin.h>

#include <cstdint>

namespace fth::kv {
namespace {

// Keys whose rows become columns of K together.
constexpr int64_t kRun = 16;

// Elements of two keys side by side, as V of bf16 and int8 has them. n is a multiple of 8.
inline void interleave(const uint16_t* even, const uint16_t* odd, int64_t n, uint16_t* to) {
  for (int64_t c = 0; c < n; c += 8) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(even + c));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(odd + c));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * c), _mm_unpacklo_epi16(a, b));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * c + 8), _mm_unpackhi_epi16(a, b));
  }
}

inline void interleave(const int8_t* even, const int8_t* odd, int64_t n, int8_t* to) {
  for (int64_t c = 0; c < n; c += 8) {
    const __m128i a = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(even + c));
    const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(odd + c));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * c), _mm_unpacklo_epi8(a, b));
  }
}

}  // namespace
}  // namespace fth::kv
