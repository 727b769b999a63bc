// The register tile of AVX-512, over the arithmetic of one step.
#pragma once
#include "../simd/avx512.h"
#include "panels.h"

namespace fth::linear {
namespace {

inline __m512 load_step(const char* p) { return _mm512_loadu_ps(reinterpret_cast<const float*>(p)); }
inline __m512 broadcast_step(const char* p) {
  float x;
  memcpy(&x, p, sizeof x);
  return _mm512_set1_ps(x);
}

// 32 codes of f8 in bf16, exact: numbers / 256. All are zero or normal, as the dot instruction needs them.
inline __m512i bf16_of_32_f8(__m256i codes) {
  const auto word = [](int x) { return _mm512_set1_epi16(int16_t(x)); };
  const __m512i x = _mm512_cvtepi8_epi16(codes);
  // The exponent's upper bits; where it is zero in e4m3, what turns the mantissa into the number.
  const __m512i small = _mm512_broadcast_i32x4(
      _mm_setr_epi16(0x0000, 0x3710, 0x37a0, 0x37f0, 0x3840, 0x3870, 0x3820, 0x3810));
  const __m512i upper = _mm512_mask_permutexvar_epi16(word(0x3800), _mm512_testn_epi16_mask(x, word(0x78)), x, small);
  return _mm512_ternarylogic_epi32(_mm512_slli_epi16(x, 4), word(0x87f0), upper, 0x6a);  // (a & b) ^ c
}

// What the tiles of f8 share.
struct F8Steps {
  static constexpr int64_t kStepBytes = kPanel * 2;
  static __m256i codes(const char* w, int n) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + n * 32));
  }
  static void decode(const char* w, int64_t steps, char* to) {
    for (int64_t s = 0; s < steps; s++, w += kStepBytes)
#pragma GCC unroll 4
      for (int n = 0; n < 4; n++, to += 64) _mm512_store_si512(to, bf16_of_32_f8(codes(w, n)));
  }
};

// A step has S::kParts parts: S::part takes one out of a vector of steps of x, S::weights out of vector n of a panel's,
// S::fma advances the chains by it.
template <class S>
struct Tile : S {
  static constexpr int64_t kRows = S::kRows, kStepBytes = S::kStepBytes;
  // 128 KiB of a panel: it and the next block stay in the L2 cache beside kRowChunk rows of x.
  static constexpr int64_t kBlockSteps = 512;
  static constexpr bool kPasses = false;

  static void run(int rows, const Task& task) {
    switch (rows) {
      case 1: return tile<1, 0>(task);
      case 2: return tile<2, 0>(task);
      case 3: return fetching<3>(task);
      case 4: return fetching<4>(task);
      case 5: return fetching<kRows < 5 ? kRows : 5>(task);
      default: return fetching<kRows>(task);
    }
  }

  template <int R>
  static void fetching(const Task& task) {
    switch (task.fetch_lines) {
      case 0: return tile<R, 0>(task);
      case 1: return tile<R, 1>(task);
      default: return tile<R, 2>(task);
    }
  }

  template <int R, int kFetchLines>
  static void tile(const Task& task) {
    constexpr int N = 4;  // vectors of a panel
    const char *x[R], *w = task.w, *fetch = task.fetch;
    float* z = task.z;
    __m512 chain[R][N];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      x[r] = task.x[r];
#pragma GCC unroll 4
      for (int n = 0; n < N; n++)
        chain[r][n] = task.fresh ? _mm512_setzero_ps() : _mm512_load_ps(z + r * kPanel + n * 16);
    }
    for (int64_t s = 0, steps = task.steps; s < steps; s++, w += kStepBytes) {
#pragma GCC unroll 2
      for (int i = 0; i < kFetchLines; i++, fetch += 64) _mm_prefetch(fetch, _MM_HINT_T0);
#pragma GCC unroll 2
      for (int part = 0; part < S::kParts; part++) {
        // There are no registers to keep both parts of a load: load again, with all chains in registers.
        if constexpr (S::kParts > 1) {
          asm volatile("" ::: "memory");
#pragma GCC unroll 6
          for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) asm volatile("" : "+v"(chain[r][n]));
        }
        if constexpr (R == 1) {
          const __m512 a = S::part(part, broadcast_step(x[0] + s * 4));
#pragma GCC unroll 4
          for (int n = 0; n < N; n++) chain[0][n] = S::fma(chain[0][n], S::weights(part, w, n), a);
        } else {
          __m512 b[N];
#pragma GCC unroll 4
          for (int n = 0; n < N; n++) {
            b[n] = S::weights(part, w, n);
            // Or GCC reads it again for every row, which is slow while it is on its way from memory.
            if constexpr (S::kParts == 1) asm("" : "+v"(b[n]));
          }
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) {
            const __m512 a = S::part(part, broadcast_step(x[r] + s * 4));
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) chain[r][n] = S::fma(chain[r][n], b[n], a);
          }
        }
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) _mm512_store_ps(z + r * kPanel + n * 16, chain[r][n]);
  }
};

}  // namespace
}  // namespace fth::linear
