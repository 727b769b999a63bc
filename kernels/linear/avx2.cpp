#include "../simd/avx2.h"

#include "panels.h"

namespace fth::linear::avx2 {
namespace {

struct Vector {
  using F = __m256;
  static constexpr int64_t kLanes = 8;
  static F load(const float* p, int64_t n) {  // the rest is 0
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes8(n));
  }
  static void store(float* p, int64_t n, F v) {
    if (n >= 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, lanes8(n), v);
  }
  static void store_bf16(uint16_t* p, int64_t n, F v) {
    alignas(16) uint16_t eight[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(eight), bf16_of_8(v));
    memcpy(p, eight, size_t(n < 8 ? n : 8) * 2);
  }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
  static F exp(F a) { return exp8(a); }
  static F select_below(F z, float limit, F below, F otherwise) {
    return _mm256_blendv_ps(otherwise, below, _mm256_cmp_ps(z, set(limit), _CMP_LT_OQ));
  }
};

inline __m256 load_step(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
inline __m256 broadcast_step(const char* p) {
  float x;
  memcpy(&x, p, sizeof x);
  return _mm256_set1_ps(x);
}

struct F32 {
  static constexpr int kParts = 1, kRows = 6;
  static __m256 part(int, __m256 step) { return step; }
};

// A pair of bf16 widened to fp32: the even k, then the odd.
struct Bf16 {
  static constexpr int kParts = 2, kRows = 5;
  static __m256 part(int odd, __m256 step) {
    const __m256i bits = _mm256_castps_si256(step);
    return _mm256_castsi256_ps(odd ? _mm256_and_si256(bits, _mm256_set1_epi32(int(0xffff0000u)))
                                   : _mm256_slli_epi32(bits, 16));
  }
};

// Passes over the block some vectors at a time.
template <class S>
struct Tile {
  static constexpr int64_t kRows = S::kRows;
  static constexpr int64_t kBlockSteps = 256;  // 64 KiB of a panel, read several times
  static constexpr bool kPasses = true;

  static void run(int rows, const Task& task) {
    switch (rows) {
      case 1: return passes<1, 8>(task);
      case 2: return passes<2, 4>(task);
      case 3: return passes<3, S::kParts == 1 ? 4 : 2>(task);
      case 4: return passes<4, 2>(task);
      case 5: return passes<5, 2>(task);
      default: return passes<S::kRows, 2>(task);
    }
  }

  // N vectors per pass.
  template <int R, int N>
  static void passes(const Task& task) {
    constexpr int kPassCount = kPanel / 8 / N, kAll = 4 / kPassCount;  // lines of a step that a pass fetches of all 4
    for (int pass = 0; pass < kPassCount; pass++) {
      const char* w = task.w + pass * N * 32;
      float* z = task.z + pass * N * 8;
      const int lines = task.fetch_lines == 4 ? kAll : pass < task.fetch_lines;
      const char* fetch = task.fetch + pass * lines * task.steps * 64;
      if (lines == 0) tile<R, N, 0>(task, w, fetch, z);
      else tile<R, N, kAll>(task, w, fetch, z);
    }
  }

  template <int R, int N, int kFetchLines>
  static void tile(const Task& task, const char* w, const char* fetch, float* z) {
    const char* x[R];
    __m256 chain[R][N];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      x[r] = task.x[r];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++)
        chain[r][n] = task.fresh ? _mm256_setzero_ps() : _mm256_load_ps(z + r * kPanel + n * 8);
    }
    for (int64_t s = 0, steps = task.steps; s < steps; s++, w += kStepBytes) {
#pragma GCC unroll 4
      for (int i = 0; i < kFetchLines; i++, fetch += 64) _mm_prefetch(fetch, _MM_HINT_T1);
#pragma GCC unroll 2
      for (int part = 0; part < S::kParts; part++) {
        // There are no registers to keep both parts of a load: load again, with all chains in registers.
        if constexpr (S::kParts > 1) {
          asm volatile("" ::: "memory");
#pragma GCC unroll 6
          for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) asm volatile("" : "+x"(chain[r][n]));
        }
        if constexpr (R <= 3) {  // hold the rows, walk over the vectors
          __m256 a[R];
#pragma GCC unroll 3
          for (int r = 0; r < R; r++) a[r] = S::part(part, broadcast_step(x[r] + s * 4));
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) {
            const __m256 b = S::part(part, load_step(w + n * 32));
#pragma GCC unroll 3
            for (int r = 0; r < R; r++) chain[r][n] = _mm256_fmadd_ps(b, a[r], chain[r][n]);
          }
        } else {
          __m256 b[N];
#pragma GCC unroll 2
          for (int n = 0; n < N; n++) b[n] = S::part(part, load_step(w + n * 32));
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) {
            const __m256 a = S::part(part, broadcast_step(x[r] + s * 4));
#pragma GCC unroll 2
            for (int n = 0; n < N; n++) chain[r][n] = _mm256_fmadd_ps(b[n], a, chain[r][n]);
          }
        }
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) _mm256_store_ps(z + r * kPanel + n * 8, chain[r][n]);
  }
};

}  // namespace

void panels_f32(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels_of_f32<Vector, Tile<F32>>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_bf16(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels_of_bf16<Vector, Tile<Bf16>>(a, panel_begin, panel_end, row_begin, row_end);
}

void round(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < k; i += 8)
      Vector::store_bf16(y + row * y_stride + i, k - i, Vector::load(x + row * x_stride + i, k - i));
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

}  // namespace fth::linear::avx2
