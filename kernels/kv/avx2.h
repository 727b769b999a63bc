// AVX2: rows become columns of a K tile.
#pragma once
#include "../simd/avx2.h"
#include "kv.h"

namespace fth::kv {
namespace {

// Eight rows of eight words become columns.
[[gnu::always_inline]] inline void transpose(__m256i (&x)[8]) {
  __m256i t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // x[i + c]: half h holds column 4 h + c of rows i to i + 3
    x[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    x[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    x[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    x[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    t[c] = _mm256_permute2x128_si256(x[c], x[4 + c], 0x20);
    t[4 + c] = _mm256_permute2x128_si256(x[c], x[4 + c], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) x[i] = t[i];
}

// The low halves of eight words.
inline __m128i low_halves(__m256i x) {
  const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
  return _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
}

struct Avx2 {
  // Words [0, words) of sixteen rows become columns of a K tile of T, from `to` on.
  template <typename T>
  static void turn(const char* const* rows, int64_t words, char* to) {
    for (int64_t w = 0; w < words; w += 8)
      for (int64_t half = 0; half < 2; half++) {
        __m256i x[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
          const char* at = rows[half * 8 + i] + w * 4;
          x[i] = w + 8 <= words ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))
                                : _mm256_maskload_epi32(reinterpret_cast<const int*>(at), lanes8(words - w));
        }
        transpose(x);
        char* at = to + w * 4 * kPage + half * 8 * (sizeof(T) > 1 ? 4 : 2);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++, at += 4 * kPage) {
          if (w + i >= words) break;
          if constexpr (sizeof(T) > 1) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x[i]);
          } else {  // a word is two pairs
            _mm_storeu_si128(reinterpret_cast<__m128i*>(at), low_halves(x[i]));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 2 * kPage), low_halves(_mm256_srli_epi32(x[i], 16)));
          }
        }
      }
  }
};

}  // namespace
}  // namespace fth::kv
