// AVX-512: rows become columns of a K tile.
#pragma once
#include "../simd/avx512.h"
#include "kv.h"

namespace fth::kv {
namespace {

// Sixteen rows of sixteen words become columns.
[[gnu::always_inline]] inline void transpose(__m512i (&x)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // x[i + c]: lane l holds column 4 l + c of rows i to i + 3
    x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512i even = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88), odd = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
    const __m512i odd2 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(even, even2, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(even, even2, 0xdd);
    t[12 + c] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) x[i] = t[i];
}

struct Avx512 {
  // Words [0, words) of sixteen rows become columns of a K tile of T, from `to` on.
  template <typename T>
  static void turn(const char* const* rows, int64_t words, char* to) {
    for (int64_t w = 0; w < words; w += 16, to += 64 * kPage) {
      __m512i x[16];
      if (w + 16 <= words) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) x[i] = _mm512_loadu_si512(rows[i] + w * 4);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) x[i] = _mm512_maskz_loadu_epi32(lanes16(words - w), rows[i] + w * 4);
      }
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (w + i < words) store<T>(x[i], to + i * 4 * kPage);
    }
  }

 private:
  template <typename T>
  [[gnu::always_inline]] static void store(__m512i x, char* to) {
    if constexpr (sizeof(T) > 1) {
      _mm512_storeu_si512(to, x);
    } else {  // a word is two pairs
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(x));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * kPage),
                          _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)));
    }
  }
};

}  // namespace
}  // namespace fth::kv
