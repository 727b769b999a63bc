// AVX-512 arithmetic of attention, for the four forms of K,V products.
//
// Scores and weighted values are one micro-kernel: R rows times a matrix that is read in order, 64 columns (four
// registers) wide; lane c of row i is one chain of fused multiply-adds over the steps.
#pragma once
#include "../kv/avx512.h"
#include "../simd/avx512.h"
#include "tile.h"

namespace fth::attention {
namespace {

enum class Form {
  kF32,      // f32 K,V
  kWidened,  // bf16 K,V, each word taken apart into two f32; queries and weights are f32 that bf16 can hold
  kDot,      // bf16 K,V, AVX512-BF16; queries and weights are packed pairs of bf16
  kInt       // int8 K,V; queries and weights are packed pairs of int16, sums int32
};

// acc + x * y, per lane one f32, or the sum of a pair's two products.
template <Form form>
[[gnu::always_inline]] inline __m512 multiplied(__m512i x, __m512i y, __m512 acc) {
  if constexpr (form == Form::kInt) {
#if defined(__AVX512VNNI__)
    return _mm512_castsi512_ps(_mm512_dpwssd_epi32(_mm512_castps_si512(acc), x, y));
#else
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(acc), _mm512_madd_epi16(x, y)));
#endif
  }
#if defined(__AVX512BF16__)
  if constexpr (form == Form::kDot) return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)y);
#endif
  return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), acc);
}

template <Form form>
constexpr int64_t kVectorBytes = form == Form::kInt ? 32 : 64;  // of a tile

// Vector i of a tile; int8 is widened.
template <Form form>
[[gnu::always_inline]] inline __m512i vector(const char* tile, int64_t i) {
  if constexpr (form == Form::kInt)
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + i * kVectorBytes<form>)));
  else return _mm512_loadu_si512(tile + i * kVectorBytes<form>);
}

// acc += a * b over `steps` words of b's rows. `a` has one word per step (kWidened: two). A masked product leaves out
// the steps (bf16, int8: halves of them) whose bit is not set.
template <Form form, int R, int N, bool kMasked>
[[gnu::always_inline]] inline void product(const float* a, int64_t a_stride, const char* b, int64_t steps,
                                           uint64_t mask, Ahead ahead, __m512 (&acc)[R][N]) {
  const auto step = [&](int64_t s, uint32_t halves) __attribute__((always_inline)) {
    const __m512i select = _mm512_set1_epi32(int((halves & 1 ? 0xffffu : 0) | (halves & 2 ? 0xffff0000u : 0)));
    // Widened words go in two rounds, so that the registers hold the multipliers of one.
#pragma GCC unroll 2
    for (int half = 0; half < (form == Form::kWidened ? 2 : 1); half++) {
      if (form == Form::kWidened && kMasked && !(halves >> half & 1)) continue;
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) {
        __m512i x = vector<form>(b, s * N + j);
        if ((form == Form::kDot || form == Form::kInt) && kMasked) x = _mm512_and_si512(x, select);
        if (form == Form::kWidened && half == 0) x = _mm512_slli_epi32(x, 16);
        if (form == Form::kWidened && half == 1) x = _mm512_and_si512(x, _mm512_set1_epi32(int(0xffff0000u)));
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
          const __m512 y = _mm512_set1_ps(a[i * a_stride + (form == Form::kWidened ? 2 * s + half : s)]);
          acc[i][j] = multiplied<form>(x, _mm512_castps_si512(y), acc[i][j]);
        }
      }
    }
  };
  if constexpr (kMasked) {
    if constexpr (form == Form::kF32) {
      for (; mask != 0; mask &= mask - 1) step(__builtin_ctzll(mask), 3);
    } else {
      for (int64_t s = 0; mask != 0; s++, mask >>= 2)
        if (mask & 3) step(s, uint32_t(mask & 3));
    }
  } else {
    for (int64_t s = 0; s < steps; s += 4) {
      step(s, 3);
      step(s + 1, 3);
      step(s + 2, 3);
      step(s + 3, 3);
      for (int i = 0; i < ahead.lines; i++) _mm_prefetch(ahead.at + i * 64, _MM_HINT_T0);
      ahead.at += ahead.lines * 64;
    }
  }
}

// 2^x for x <= 0, also -inf; NaN stays NaN. A polynomial of degree 5 (relative error 2^-23.4), exact at 0; results
// below 2^-126 are 0. The low bits of x + (1.5 * 2^23 + 127) are the exponent field of the nearest integer's power: 0,
// which is the number 0, for -127. (Quicker on Zen 5 than instructions that round, reduce and scale.)
inline __m512 exp2_16(__m512 x) {
  const __m512 magic = _mm512_set1_ps(12583039.f);
  x = _mm512_max_ps(_mm512_set1_ps(-127.f), x);
  const __m512 m = _mm512_add_ps(x, magic), f = _mm512_sub_ps(x, _mm512_sub_ps(m, magic));
  const __m512 power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(m), 23));
  __m512 p = _mm512_set1_ps(0.00132647273f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00967151299f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0555073358f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240222424f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147004f));
  return _mm512_mul_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f)), power);
}

template <Form form>
struct Avx512 {
  static constexpr bool kOnePass = true;
  static constexpr bool kOfPairs = form == Form::kDot || form == Form::kInt;

  static float query(const float* q, float scale, int64_t head_dim, float* to) {
    const auto scaled = [&](int64_t d) {
      return _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes16(head_dim - d), q + d), _mm512_set1_ps(scale));
    };
    FixedPoint fixed{1, 1};
    if constexpr (form == Form::kInt) {
      __m512i most = _mm512_setzero_si512();  // |x| as integers: NaN is above infinity
      for (int64_t d = 0; d < head_dim; d += 16)
        most = _mm512_max_epi32(most, _mm512_castps_si512(Vector::abs(scaled(d))));
      fixed = fixed_point(uint32_t(_mm512_reduce_max_epi32(most)), 32767);
    }
    for (int64_t d = 0; d < head_dim; d += 16) {
      __m512 x = scaled(d);
      if (form == Form::kInt) x = _mm512_mul_ps(x, _mm512_set1_ps(fixed.steps));
      put(x, to + (kOfPairs ? d / 2 : d));
    }
    return fixed.unit;
  }

  static void scores(int n, const float* query, const float* unit, const void* k, int64_t head_dim, float* to,
                     const Ahead& ahead) {
    with_count(n, [&](auto count) { scores_of<decltype(count)::value>(query, unit, k, head_dim, to, ahead); });
  }

  // sum holds 16 partial sums per vector. int8: K's scales [64] and V's [64], else null; those of keys that are not
  // seen reach nothing.
  static void softmax(int n, float* scores, uint64_t mask, const float* scales, const float* bias, float* most,
                      float* sum, float* factor, float* unit) {
    with_count(n, [&](auto count) {
      softmax_of<decltype(count)::value>(scores, mask, scales, bias, most, sum, factor, unit);
    });
  }

  static void values(int n, const float* weight, const void* v, int64_t width, uint64_t mask, const float* factor,
                     const float* unit, float* out, const Ahead& ahead) {
    with_count(n, [&](auto count) {
      values_of<decltype(count)::value>(weight, v, width, mask, factor, unit, out, ahead);
    });
  }

  static void turn(const char* const* rows, int64_t words, uint32_t* to) {
    kv::Avx512::turn<float>(rows, words, reinterpret_cast<char*>(to));
  }

  // to[j] = log2(e) * from[j], j < n; the rest of 64 are 0.
  static void scaled(const float* from, int64_t n, float* to) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) put_bias(_mm512_maskz_loadu_ps(lanes16(n - j * 16), from + j * 16), to + j * 16);
  }

  // to[j] = log2(e) * table[clamp(first + j, 0, width - 1)].
  static void ramp(const float* table, int64_t first, int64_t width, float* to) {
    const uint64_t inside = bits(-first, width - first), above = bits(width - first, kChunk);
    const __m512 low = _mm512_set1_ps(table[0]), high = _mm512_set1_ps(table[width - 1]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const __mmask16 read = __mmask16(inside >> j * 16);
      __m512 x = _mm512_mask_mov_ps(low, __mmask16(above >> j * 16), high);
      if (read != 0) x = _mm512_mask_loadu_ps(x, read, table + first + j * 16);
      put_bias(x, to + j * 16);
    }
  }

  // to[j] = log2(e) * table[clamp(position[j] - zero, 0, width - 1)]; not every int32 is clamped to the same end.
  static void lookup(const float* table, const int32_t* position, int64_t zero, int64_t width, float* to) {
    const __m512i least = _mm512_set1_epi32(saturated(zero)), most = _mm512_set1_epi32(saturated(zero + width - 1));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const __m512i at = _mm512_min_epi32(_mm512_max_epi32(_mm512_loadu_si512(position + j * 16), least), most);
      const __m512i index = _mm512_sub_epi32(at, _mm512_set1_epi32(int32_t(zero)));  // modulo 2^32: zero need not fit
      put_bias(_mm512_i32gather_ps(index, table, 4), to + j * 16);
    }
  }

  // y = y * b + x * a, n a multiple of 16.
  static void axpby(float b, float* y, float a, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
      const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(y + i), _mm512_set1_ps(b));
      _mm512_storeu_ps(y + i, _mm512_fmadd_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(a), scaled));
    }
  }
  static float exp2(float x) { return _mm512_cvtss_f32(exp2_16(_mm512_set1_ps(x))); }
  static float sum(const float* lanes) { return sum16(_mm512_loadu_ps(lanes)); }

  // Bit j: x[j] >= bound.
  static uint64_t at_least(const int32_t* x, int64_t n, int32_t bound) {
    uint64_t mask = 0;
    for (int64_t j = 0; j < n; j += 16) {
      const __mmask16 lanes = lanes16(n - j);
      mask |= uint64_t(
                  _mm512_mask_cmpge_epi32_mask(lanes, _mm512_maskz_loadu_epi32(lanes, x + j), _mm512_set1_epi32(bound)))
              << j;
    }
    return mask;
  }

  // out = x * factor, f32 or bf16.
  static void put_row(const float* x, float factor, int64_t n, void* out, bool bf16) {
    for (int64_t d = 0; d < n; d += 16) {
      const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(x + d), _mm512_set1_ps(factor));
      if (bf16) _mm256_mask_storeu_epi16(static_cast<uint16_t*>(out) + d, lanes16(n - d), bf16_of_16(y));
      else _mm512_mask_storeu_ps(static_cast<float*>(out) + d, lanes16(n - d), y);
    }
  }

 private:
  static void put_bias(__m512 x, float* to) { _mm512_storeu_ps(to, _mm512_mul_ps(x, _mm512_set1_ps(kLog2e))); }

  // Sixteen queries or weights in the form that products read.
  static void put(__m512 x, float* to) {
    if constexpr (form == Form::kF32) {
      _mm512_storeu_ps(to, x);
    } else if constexpr (form == Form::kWidened) {
      _mm512_storeu_ps(to, float_of_16_bf16(bf16_of_16(x)));
    } else if constexpr (form == Form::kInt) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x)));
    } else {
#if defined(__AVX512BF16__)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
#endif
    }
  }

  // Lane i: the largest lane of x[i]. Rows meet in the lanes of one vector, four and then eight of them, so that their
  // maxima are found together.
  template <int R>
  [[gnu::always_inline]] static __m512 maxima(const __m512 (&x)[R]) {
    __m512 fours[2];
#pragma GCC unroll 2
    for (int h = 0; h < (R + 3) / 4; h++) {
      const auto row = [&](int i) __attribute__((always_inline)) { return x[4 * h + i < R ? 4 * h + i : R - 1]; };
      const auto two = [&](int i) __attribute__((always_inline)) {
        return _mm512_max_ps(_mm512_unpacklo_ps(row(i), row(i + 1)), _mm512_unpackhi_ps(row(i), row(i + 1)));
      };
      const __m512d a = _mm512_castps_pd(two(0)), b = _mm512_castps_pd(two(2));
      fours[h] = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    if constexpr (R <= 4) fours[1] = fours[0];
    const __m512 halves = _mm512_max_ps(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88),
                                        _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd));
    const __m512 whole = _mm512_max_ps(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));
    return _mm512_shuffle_f32x4(whole, whole, 0x08);
  }

  template <int R>
  static void softmax_of(float* scores, uint64_t mask, const float* scales, const float* bias, float* most, float* sum,
                         float* factor, float* unit) {
    constexpr bool kScaled = form == Form::kInt;
    alignas(64) float base[16];
    __m512 top[R];
#pragma GCC unroll 6
    for (int i = 0; i < R; i++) {
      __m512 s[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        float* at = scores + i * kChunk + j * 16;
        s[j] = _mm512_loadu_ps(at);
        if (kScaled) s[j] = _mm512_mul_ps(s[j], _mm512_loadu_ps(scales + j * 16));
        if (bias != nullptr) s[j] = _mm512_add_ps(s[j], _mm512_loadu_ps(bias + i * kChunk + j * 16));
        if (mask != ~uint64_t(0)) s[j] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), __mmask16(mask >> j * 16), s[j]);
        if (kScaled || bias != nullptr || mask != ~uint64_t(0)) _mm512_storeu_ps(at, s[j]);
      }
      top[i] = _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
    }

    const __mmask16 vectors = lanes16(R);
    const __m512 before = _mm512_maskz_loadu_ps(vectors, most), here = maxima(top);
    const __m512 now = _mm512_mask_mov_ps(before, _mm512_cmp_ps_mask(here, before, _CMP_GT_OQ), here);
    const __mmask16 none = _mm512_cmp_ps_mask(now, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);  // -inf - -inf is no number
    const __m512 from = _mm512_mask_mov_ps(now, none, _mm512_setzero_ps());
    _mm512_store_ps(base, from);
    _mm512_mask_storeu_ps(most, vectors, now);
    _mm512_mask_storeu_ps(factor, vectors, exp2_16(_mm512_sub_ps(before, from)));

    __m512 v_steps[4];
    if constexpr (kScaled) {
      __m512i largest = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        v_steps[j] = _mm512_maskz_loadu_ps(__mmask16(mask >> j * 16), scales + kChunk + j * 16);
        largest = _mm512_max_epi32(largest, _mm512_castps_si512(Vector::abs(v_steps[j])));
      }
      const FixedPoint fixed = fixed_point(uint32_t(_mm512_reduce_max_epi32(largest)), 32767);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) v_steps[j] = _mm512_mul_ps(v_steps[j], _mm512_set1_ps(fixed.steps));
      for (int i = 0; i < R; i++) unit[i] = fixed.unit;
    }

    for (int i = 0; i < R; i++) {
      __m512 s[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
        s[j] = exp2_16(_mm512_sub_ps(_mm512_loadu_ps(scores + i * kChunk + j * 16), _mm512_set1_ps(base[i])));
      const __m512 added = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        if (kScaled) s[j] = _mm512_mul_ps(s[j], v_steps[j]);
        put(s[j], scores + i * kChunk + (kOfPairs ? j * 8 : j * 16));
      }
      _mm512_storeu_ps(sum + i * 16, _mm512_fmadd_ps(_mm512_loadu_ps(sum + i * 16), _mm512_set1_ps(factor[i]), added));
    }
  }

  template <int R>
  static void scores_of(const float* query, const float* unit, const void* k, int64_t head_dim, float* to,
                        const Ahead& ahead) {
    __m512 acc[R][4];
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) acc[i][j] = _mm512_setzero_ps();
    const int64_t steps = form == Form::kF32 ? head_dim : head_dim / 2;
    product<form, R, 4, false>(query, kQueryStride, static_cast<const char*>(k), steps, 0, ahead, acc);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        if (form == Form::kInt) acc[i][j] = _mm512_mul_ps(floats(acc[i][j]), _mm512_set1_ps(unit[i]));
        _mm512_storeu_ps(to + i * kChunk + j * 16, acc[i][j]);
      }
  }

  template <int R>
  static void values_of(const float* weight, const void* v, int64_t width, uint64_t mask, const float* factor,
                        const float* unit, float* out, Ahead ahead) {
    const char* b = static_cast<const char*>(v);
    for (int64_t d = 0; d < width; d += 64) {
      const auto block = [&](auto vectors) {
        constexpr int N = decltype(vectors)::value;
        values_block<R, N>(weight, b, mask, factor, unit, out + d, width, ahead);
        b += kSteps * N * kVectorBytes<form>;
      };
      const int64_t left = width - d;
      if (left >= 64) block(Count<4>{});
      else if (left == 48) block(Count<3>{});
      else if (left == 32) block(Count<2>{});
      else block(Count<1>{});
      ahead.at += ahead.lines * 64 * (kSteps / 4);
    }
  }

  static constexpr int64_t kSteps = kOfPairs || form == Form::kWidened ? 32 : 64;  // words of a chunk's keys

  template <int R, int N>
  static void values_block(const float* weight, const char* b, uint64_t mask, const float* factor, const float* unit,
                           float* out, int64_t width, const Ahead& ahead) {
    const auto shrunk = [&](int i, int j) __attribute__((always_inline)) {
      return _mm512_mul_ps(_mm512_loadu_ps(out + i * width + j * 16), _mm512_set1_ps(factor[i]));
    };
    __m512 acc[R][N];
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) acc[i][j] = form == Form::kInt ? _mm512_setzero_ps() : shrunk(i, j);
    if (mask == ~uint64_t(0)) product<form, R, N, false>(weight, kChunk, b, kSteps, mask, ahead, acc);
    else product<form, R, N, true>(weight, kChunk, b, kSteps, mask, ahead, acc);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) {
        if (form == Form::kInt) acc[i][j] = _mm512_fmadd_ps(floats(acc[i][j]), _mm512_set1_ps(unit[i]), shrunk(i, j));
        _mm512_storeu_ps(out + i * width + j * 16, acc[i][j]);
      }
  }

  // Of int32 sums.
  static __m512 floats(__m512 sums) { return _mm512_cvtepi32_ps(_mm512_castps_si512(sums)); }
};

}  // namespace
}  // namespace fth::attention
