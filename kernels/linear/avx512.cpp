#include "avx512.h"
#include "codes.h"

namespace fth::linear::avx512 {
namespace {

struct F32 {
  static constexpr int kParts = 1, kRows = 6;
  static constexpr int64_t kStepBytes = kPanel * 4;
  static __m512 part(int, __m512 step) { return step; }
  static __m512 weights(int, const char* w, int n) { return load_step(w + n * 64); }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return _mm512_fmadd_ps(w, x, chain); }
};

// A pair of bf16 widened to fp32: the even k, then the odd.
struct Bf16 {
  static constexpr int kParts = 2, kRows = 5;
  static constexpr int64_t kStepBytes = kPanel * 4;
  static __m512 part(int odd, __m512 step) {
    const __m512i bits = _mm512_castps_si512(step);
    return _mm512_castsi512_ps(odd ? _mm512_and_si512(bits, _mm512_set1_epi32(int(0xffff0000u)))
                                   : _mm512_slli_epi32(bits, 16));
  }
  static __m512 weights(int odd, const char* w, int n) { return part(odd, load_step(w + n * 64)); }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return _mm512_fmadd_ps(w, x, chain); }
};

// Pairs of codes by way of fp16.
struct F8 : F8Steps {
  static constexpr int kParts = 2, kRows = 4;
  static __m512 part(int odd, __m512 step) { return Bf16::part(odd, step); }
  static __m512 weights(int odd, const char* w, int n) {
    const __m256i pairs = codes(w, n), code = odd ? pairs : _mm256_slli_epi16(pairs, 8);  // in the upper byte
    const __m256i f16 = _mm256_and_si256(_mm256_srai_epi16(code, 1), _mm256_set1_epi16(int16_t(0xbf80)));
    return _mm512_cvtph_ps(f16);
  }
  static __m512 fma(__m512 chain, __m512 w, __m512 x) { return Bf16::fma(chain, w, x); }
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
    for (int64_t i = 0; i < k; i += 16)
      Vector::store_bf16(y + row * y_stride + i, k - i, Vector::load(x + row * x_stride + i, k - i));
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

namespace {

// The sums of the lanes of each.
__m128i sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i each = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(each), _mm512_extracti64x4_epi64(each, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

constexpr int64_t kVectors = kCodeUnit / 16;

// A unit of a row, of which `count` elements are there; kWhole: all.
template <bool kWhole>
struct Unit {
  const float* x;
  int64_t count;

  __m512 vector(int64_t i) const { return Vector::load(x + i * 16, kWhole ? 16 : count - i * 16); }
  // |x| as integers: NaN is above infinity.
  __m512i largest() const {
    __m512i most = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int64_t i = 0; i < kVectors; i++)
      most = _mm512_max_epi32(most, _mm512_castps_si512(Vector::abs(vector(i))));
    return most;
  }
  // Returns the groups' sums, negated.
  __m128i encode(__m512 steps, int8_t* code) const {
    __m512i sum[kGroups];
#pragma GCC unroll 4
    for (int64_t g = 0; g < kGroups; g++) {
      sum[g] = _mm512_setzero_si512();
#pragma GCC unroll 2
      for (int64_t i = g * 2; i < g * 2 + 2; i++) {
        const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(vector(i), steps));
        sum[g] = _mm512_add_epi32(sum[g], n);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(code + i * 16), _mm512_cvtsepi32_epi8(n));
      }
    }
    return _mm_sub_epi32(_mm_setzero_si128(), sums(sum[0], sum[1], sum[2], sum[3]));
  }
};

template <bool kWhole>
[[gnu::always_inline]] inline void quantise_span(const float* x, int64_t count, const Span& to) {
  const auto unit = [&](int64_t u) { return Unit<kWhole>{x + u * kCodeUnit, count - u * kCodeUnit}; };
  __m512i most = unit(0).largest();
  for (int64_t u = 1; u < to.units; u++) most = _mm512_max_epi32(most, unit(u).largest());
  const __m512 steps = _mm512_set1_ps(begin_span(to, _mm512_reduce_max_epi32(most)));
  for (int64_t u = 0; u < to.units; u++)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to.scale[u].minus_sum), unit(u).encode(steps, to.code + u * kCodeUnit));
  end_span(to);
}

}  // namespace

void quantise(const float* x, int64_t k, int64_t span, char* y, int64_t begin, int64_t end) {
  spans(x, k, span, y, begin, end, [](const float* from, int64_t count, const Span& to) {
    if (count < to.units * kCodeUnit) quantise_span<false>(from, count, to);
    else if (to.units > 1) quantise_span<true>(from, count, to);
    else quantise_span<true>(from, count, Span{1, to.code, to.scale});  // nothing to loop over
  });
}

}  // namespace fth::linear::avx512
