// AVX-512 vectors and the register tile, over the arithmetic of one step.
#pragma once
#include "../simd/avx512.h"
#include "panels.h"

namespace fth::linear {
namespace {

struct Vector {
  using F = __m512;
  static constexpr int64_t kLanes = 16;
  static F load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(lanes16(n), p); }  // the rest is 0
  static void store(float* p, int64_t n, F v) { _mm512_mask_storeu_ps(p, lanes16(n), v); }
  static void store_bf16(uint16_t* p, int64_t n, F v) { _mm256_mask_storeu_epi16(p, lanes16(n), bf16_of_16(v)); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F exp(F a) { return exp16(a); }
  static F select_below(F z, float limit, F below, F otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(z, set(limit), _CMP_LT_OQ), otherwise, below);
  }
};

inline __m512 load_step(const char* p) { return _mm512_loadu_ps(reinterpret_cast<const float*>(p)); }
inline __m512 broadcast_step(const char* p) {
  float x;
  memcpy(&x, p, sizeof x);
  return _mm512_set1_ps(x);
}

// S::kParts parts of a step, S::part<i> takes its operand from a vector of steps; S::fma advances the chains.
template <class S>
struct Tile {
  static constexpr int64_t kRows = 6, kPairRows = 3;
  static constexpr int64_t kAhead = 4096;  // bytes between a load and the prefetch beside it

  // R rows times P panels of four vectors.
  template <int R, int P, bool kStream>
  static void run(const char* const* x, const char* w, const char* second, int64_t steps, bool fresh, float* const* z) {
    constexpr int N = 4 * P;
    __m512 chain[R][N];
    const char* at[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      at[r] = x[r];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++)
        chain[r][n] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(z[n / 4] + r * kPanel + n % 4 * 16);
    }
    for (int64_t s = 0; s < steps; s++) {
      const char* panel[] = {w + s * kStepBytes, second + s * kStepBytes};
      if constexpr (kStream) {
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) _mm_prefetch(panel[n / 4] + n % 4 * 64 + kAhead, _MM_HINT_T0);
      }
#pragma GCC unroll 2
      for (int part = 0; part < S::kParts; part++) {
        if constexpr (S::kParts > 1) asm volatile("" ::: "memory");  // load again rather than keep both parts: registers
        if constexpr (R == 1) {
          const __m512 a = S::part(part, broadcast_step(at[0] + s * 4));
#pragma GCC unroll 8
          for (int n = 0; n < N; n++)
            chain[0][n] = S::fma(chain[0][n], S::part(part, load_step(panel[n / 4] + n % 4 * 64)), a);
        } else {
          __m512 b[N];
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) b[n] = S::part(part, load_step(panel[n / 4] + n % 4 * 64));
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) {
            if constexpr (S::kParts > 1) asm volatile("" ::: "memory");
            const __m512 a = S::part(part, broadcast_step(at[r] + s * 4));
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) chain[r][n] = S::fma(chain[r][n], b[n], a);
          }
        }
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) _mm512_store_ps(z[n / 4] + r * kPanel + n % 4 * 16, chain[r][n]);
  }

  template <int R, int P>
  static void choose(const char* const* x, const char* w, const char* second, int64_t steps, bool fresh, bool ahead, float* const* z) {
    if (ahead) run<R, P, true>(x, w, second, steps, fresh, z);
    else run<R, P, false>(x, w, second, steps, fresh, z);
  }

  static void rows(int rows, const char* const* x, const char* w, int64_t steps, bool fresh, bool ahead, float* z) {
    switch (rows) {
      case 1: return choose<1, 1>(x, w, w, steps, fresh, ahead, &z);
      case 2: return choose<2, 1>(x, w, w, steps, fresh, ahead, &z);
      case 3: return choose<3, 1>(x, w, w, steps, fresh, ahead, &z);
      case 4: return choose<4, 1>(x, w, w, steps, fresh, ahead, &z);
      case 5: return choose<5, 1>(x, w, w, steps, fresh, ahead, &z);
      default: return choose<6, 1>(x, w, w, steps, fresh, ahead, &z);
    }
  }
  static void pair(int rows, const char* const* x, const char* w, const char* second, int64_t steps, bool ahead, float* z, float* z_second) {
    float* const both[] = {z, z_second};
    switch (rows) {
      case 1: return choose<1, 2>(x, w, second, steps, true, ahead, both);
      case 2: return choose<2, 2>(x, w, second, steps, true, ahead, both);
      default: return choose<3, 2>(x, w, second, steps, true, ahead, both);
    }
  }
};

}  // namespace
}  // namespace fth::linear
