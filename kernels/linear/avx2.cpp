#include "avx2.h"
#include "codes.h"

namespace fth::linear::avx2 {
namespace {

inline __m256 load_step(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
inline __m256 broadcast_step(const char* p) {
  float x;
  memcpy(&x, p, sizeof x);
  return _mm256_set1_ps(x);
}

struct F32 {
  static constexpr int kParts = 1, kRows = 6;
  static constexpr int64_t kStepBytes = kPanel * 4;
  static __m256 part(int, __m256 step) { return step; }
  static __m256 weights(int, const char* w, int n) { return load_step(w + n * 32); }
};

// A pair of bf16 widened to fp32: the even k, then the odd.
struct Bf16 {
  static constexpr int kParts = 2, kRows = 5;
  static constexpr int64_t kStepBytes = kPanel * 4;
  static __m256 part(int odd, __m256 step) {
    const __m256i bits = _mm256_castps_si256(step);
    return _mm256_castsi256_ps(odd ? _mm256_and_si256(bits, _mm256_set1_epi32(int(0xffff0000u)))
                                   : _mm256_slli_epi32(bits, 16));
  }
  static __m256 weights(int odd, const char* w, int n) { return part(odd, load_step(w + n * 32)); }
};

// Pairs of codes by way of fp16: numbers / 256, exact.
struct F8 {
  static constexpr int kParts = 2, kRows = 4;
  static constexpr int64_t kStepBytes = kPanel * 2;
  static __m256 part(int odd, __m256 step) { return Bf16::part(odd, step); }
  static __m256 weights(int odd, const char* w, int n) {
    const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + n * 16));
    const __m128i code = odd ? pairs : _mm_slli_epi16(pairs, 8);  // in the upper byte
    return _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(code, 1), _mm_set1_epi16(int16_t(0xbf80))));
  }
  static void decode(const char* w, int64_t steps, char* to) {
    for (int64_t s = 0; s < steps; s++, w += kStepBytes)
      for (int n = 0; n < 8; n++, to += 32) {
        const __m256i even = _mm256_castps_si256(weights(0, w, n)), odd = _mm256_castps_si256(weights(1, w, n));
        _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa));
      }
  }
};

// Passes over the block some vectors at a time.
template <class S>
struct Tile : S {
  static constexpr int64_t kRows = S::kRows, kStepBytes = S::kStepBytes;
  static constexpr int64_t kBlockSteps = 256;  // 64 KiB of a panel, read several times
  static constexpr bool kPasses = true;

  static void run(int rows, const Task& task) {
    switch (rows) {
      case 1: return passes<1, 8>(task);
      case 2: return passes<2, 4>(task);
      case 3: return passes<3, S::kParts == 1 ? 4 : 2>(task);
      case 4: return passes<4, 2>(task);
      case 5: return passes<kRows < 5 ? kRows : 5, 2>(task);
      default: return passes<kRows, 2>(task);
    }
  }

  // N vectors per pass.
  template <int R, int N>
  static void passes(const Task& task) {
    constexpr int kPassCount = kPanel / 8 / N, kLines = kStepBytes / 64;
    constexpr int kAll = kLines < kPassCount ? 1 : kLines / kPassCount;  // lines of a step that a pass fetches of all
    for (int pass = 0; pass < kPassCount; pass++) {
      const char* w = task.w + pass * N * (kStepBytes / 8);
      float* z = task.z + pass * N * 8;
      const char* fetch = task.fetch + pass * kAll * task.steps * 64;
      if (pass * kAll < task.fetch_lines) tile<R, N, kAll>(task, w, fetch, z);
      else tile<R, N, 0>(task, w, fetch, z);
    }
  }

  // By itself, so that no constant of another tile takes a register.
  template <int R, int N, int kFetchLines>
  [[gnu::noinline]] static void tile(const Task& task, const char* w, const char* fetch, float* z) {
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
      for (int i = 0; i < kFetchLines; i++, fetch += 64) _mm_prefetch(fetch, _MM_HINT_T0);
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
            const __m256 b = S::weights(part, w, n);
#pragma GCC unroll 3
            for (int r = 0; r < R; r++) chain[r][n] = _mm256_fmadd_ps(b, a[r], chain[r][n]);
          }
        } else {
          __m256 b[N];
#pragma GCC unroll 2
          for (int n = 0; n < N; n++) b[n] = S::weights(part, w, n);
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

// Products of unsigned and signed bytes are added in pairs, in 16 bits: with weights and codes within +-128 and +-127
// no pair is beyond them, once the weights' signs are moved to the codes.
struct Integers : IntegersBase {
  static constexpr int kRows = 2;  // more spill
  struct Weights {
    V size, sign;
  };
  template <int kOffsetBits>
  static V offset(int32_t minus_sum) {
    return kOffsetBits == 7 ? _mm256_setzero_si256() : _mm256_slli_epi32(_mm256_set1_epi32(minus_sum), kOffsetBits);
  }
  template <int kOffsetBits>
  static Weights weights(V stored) {
    if (kOffsetBits != 7) return {stored, _mm256_set1_epi8(1)};
    const V w = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
    return {_mm256_abs_epi8(w), w};
  }
  static void dot(V& sum, const Weights& w, V codes) {
    const V pairs = _mm256_maddubs_epi16(w.size, _mm256_sign_epi8(codes, w.sign));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

void panels_f32(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, Steps<Tile<F32>, 1>>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_bf16(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, Steps<Tile<Bf16>, 2>>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_f8(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Vector, EightBits<Tile<F8>, Tile<Bf16>>>(a, panel_begin, panel_end, row_begin, row_end);
}

void round(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < k; i += 8)
      Vector::store_bf16(y + row * y_stride + i, k - i, Vector::load(x + row * x_stride + i, k - i));
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

void panels_quantised(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  codes_panels<Vector, Integers>(a, panel_begin, panel_end, row_begin, row_end);
}

void quantise(const float* x, int64_t k, int64_t span, char* y, int64_t begin, int64_t end) {
  spans(x, k, span, y, begin, end, [](const float* from, int64_t count, const Span& to) {
    const auto load = [&](int64_t i) { return i < count ? Vector::load(from + i, count - i) : _mm256_setzero_ps(); };
    alignas(32) int32_t each[8];
    __m256i most = _mm256_setzero_si256();  // |x| as integers: NaN is above infinity
    for (int64_t i = 0; i < to.units * kCodeUnit; i += 8)
      most = _mm256_max_epi32(most, _mm256_castps_si256(Vector::abs(load(i))));
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), most);
    const float inverse = begin_span(to, largest_of(each, 8));
    for (int64_t g = 0; g < to.units * kCodeUnit / kGroup; g++) {
      __m256i sum = _mm256_setzero_si256();
      for (int64_t i = g * kGroup; i < (g + 1) * kGroup; i += 8) {
        const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(load(i), _mm256_set1_ps(inverse)));
        sum = _mm256_add_epi32(sum, code);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to.code + i), _mm_packs_epi16(words, words));
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(each), sum);
      to.scale[g / kGroups].minus_sum[g % kGroups] = minus_sum_of(each, 8);
    }
    end_span(to);
  });
}

}  // namespace fth::linear::avx2
