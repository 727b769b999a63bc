// AVX2 arithmetic of attention. The matrices are 64 columns (eight registers) wide; R rows take as many columns at a
// time as sixteen registers allow, in several passes over the tile.
#pragma once
#include "../kv/avx2.h"
#include "../simd/avx2.h"
#include "tile.h"

namespace fth::attention {
namespace {

enum class Form {
  kF32,      // f32 K,V
  kWidened,  // bf16 K,V, each word taken apart into two f32; queries and weights are f32 that bf16 can hold
  kInt       // int8 K,V; queries and weights are packed pairs of int16, sums int32
};

constexpr int columns_of(int rows) { return rows == 1 ? 8 : rows <= 3 ? 4 : 2; }

// acc + x * y, per lane one f32, or the sum of a pair's two products.
template <Form form>
[[gnu::always_inline]] inline __m256 multiplied(__m256 x, __m256 y, __m256 acc) {
  if constexpr (form == Form::kInt) {
    const __m256i pairs = _mm256_madd_epi16(_mm256_castps_si256(x), _mm256_castps_si256(y));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(acc), pairs));
  } else {
    return _mm256_fmadd_ps(x, y, acc);
  }
}

template <Form form>
constexpr int64_t kVectorBytes = form == Form::kInt ? 16 : 32;  // of a tile

// Vector i of a tile; int8 is widened.
template <Form form>
[[gnu::always_inline]] inline __m256i vector(const char* tile, int64_t i) {
  if constexpr (form == Form::kInt)
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + i * kVectorBytes<form>)));
  else return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + i * kVectorBytes<form>));
}

// acc += a * b over `steps` words of b's rows, which are `b_stride` vectors apart. `a` has one word per step (kWidened:
// two). A masked product leaves out the steps (bf16, int8: halves of them) whose bit is not set.
template <Form form, int R, int N, bool kMasked>
[[gnu::always_inline]] inline void product(const float* a, int64_t a_stride, const char* b, int64_t b_stride,
                                           int64_t steps, uint64_t mask, Ahead ahead, __m256 (&acc)[R][N]) {
  const auto step = [&](int64_t s, uint32_t halves) __attribute__((always_inline)) {
    const __m256i select = _mm256_set1_epi32(int((halves & 1 ? 0xffffu : 0) | (halves & 2 ? 0xffff0000u : 0)));
    // Widened words go in two rounds. Of matrix registers and multipliers the fewer are held, the others pass by: with
    // the sums they fill the sixteen registers.
#pragma GCC unroll 2
    for (int half = 0; half < (form == Form::kWidened ? 2 : 1); half++) {
      if (form == Form::kWidened && kMasked && !(halves >> half & 1)) continue;
      const auto word = [&](int j) __attribute__((always_inline)) {
        __m256i x = vector<form>(b, s * b_stride + j);
        if (form == Form::kInt && kMasked) x = _mm256_and_si256(x, select);
        if (form == Form::kWidened && half == 0) x = _mm256_slli_epi32(x, 16);
        if (form == Form::kWidened && half == 1) x = _mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000u)));
        return _mm256_castsi256_ps(x);
      };
      const auto multiplier = [&](int i) __attribute__((always_inline)) {
        return _mm256_broadcast_ss(a + i * a_stride + (form == Form::kWidened ? 2 * s + half : s));
      };
      if constexpr (R < N) {
        __m256 y[R];
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) y[i] = multiplier(i);
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) {
          const __m256 x = word(j);
#pragma GCC unroll 6
          for (int i = 0; i < R; i++) acc[i][j] = multiplied<form>(x, y[i], acc[i][j]);
        }
      } else {
        __m256 x[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) x[j] = word(j);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
          const __m256 y = multiplier(i);
#pragma GCC unroll 8
          for (int j = 0; j < N; j++) acc[i][j] = multiplied<form>(x[j], y, acc[i][j]);
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
// below 2^-126 are 0.
inline __m256 exp2_8(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-127.f), x);
  const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm256_sub_ps(x, n);
  __m256 p = _mm256_set1_ps(0.00132647273f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.00967151299f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.0555073358f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.240222424f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.693147004f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.f));
  // The exponent field of 2^n: 0, which is the number 0, for n = -127.
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

template <Form form>
struct Avx2 {
  static constexpr bool kOnePass = false;
  static constexpr bool kOfPairs = form == Form::kInt;

  static float query(const float* q, float scale, int64_t head_dim, float* to) {
    const auto scaled = [&](int64_t d) { return _mm256_mul_ps(_mm256_loadu_ps(q + d), _mm256_set1_ps(scale)); };
    FixedPoint fixed{1, 1};
    if constexpr (form == Form::kInt) {
      __m256i most = _mm256_setzero_si256();  // |x| as integers: NaN is above infinity
      for (int64_t d = 0; d < head_dim; d += 8)
        most = _mm256_max_epi32(most, _mm256_castps_si256(Vector::abs(scaled(d))));
      fixed = fixed_point(largest(most), 32767);
    }
    for (int64_t d = 0; d < head_dim; d += 8) {
      __m256 x = scaled(d);
      if (form == Form::kInt) x = _mm256_mul_ps(x, _mm256_set1_ps(fixed.steps));
      put(x, to + (kOfPairs ? d / 2 : d));
    }
    return fixed.unit;
  }

  static void scores(int n, const float* query, const float* unit, const void* k, int64_t head_dim, float* to,
                     const Ahead& ahead) {
    with_count(n, [&](auto count) { scores_of<decltype(count)::value>(query, unit, k, head_dim, to, ahead); });
  }

  // sum holds 16 partial sums per vector, of which 8 are used. int8: K's scales [64] and V's [64], else null; those of
  // keys that are not seen reach nothing.
  static void softmax(int n, float* scores, uint64_t mask, const float* scales, const float* bias, float* most,
                      float* sum, float* factor, float* unit) {
    constexpr bool kScaled = form == Form::kInt;
    const auto v_scale = [&](int j) {
      return _mm256_and_ps(lanes_of(mask >> j * 8), _mm256_loadu_ps(scales + kChunk + j * 8));
    };
    FixedPoint fixed{1, 1};
    if constexpr (kScaled) {
      __m256i most_scale = _mm256_setzero_si256();
      for (int j = 0; j < 8; j++)
        most_scale = _mm256_max_epi32(most_scale, _mm256_castps_si256(Vector::abs(v_scale(j))));
      fixed = fixed_point(largest(most_scale), 32767);
    }
    for (int i = 0; i < n; i++, scores += kChunk, sum += 16) {
      __m256 top = _mm256_set1_ps(-INFINITY);
      for (int j = 0; j < 8; j++) {
        __m256 s = _mm256_loadu_ps(scores + j * 8);
        if (kScaled) s = _mm256_mul_ps(s, _mm256_loadu_ps(scales + j * 8));
        if (bias != nullptr) s = _mm256_add_ps(s, _mm256_loadu_ps(bias + i * kChunk + j * 8));
        if (mask != ~uint64_t(0)) s = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s, lanes_of(mask >> j * 8));
        _mm256_storeu_ps(scores + j * 8, s);
        top = _mm256_max_ps(top, s);
      }
      const float most_here = max8(top), now = most_here > most[i] ? most_here : most[i];
      const __m256 base = _mm256_set1_ps(now == -INFINITY ? 0.f : now);  // -inf - -inf is no number
      const __m256 shrink = exp2_8(_mm256_sub_ps(_mm256_set1_ps(most[i]), base));
      __m256 total = _mm256_mul_ps(_mm256_loadu_ps(sum), shrink);
      for (int j = 0; j < 8; j++) {
        __m256 weight = exp2_8(_mm256_sub_ps(_mm256_loadu_ps(scores + j * 8), base));
        total = _mm256_add_ps(total, weight);
        if (kScaled) weight = _mm256_mul_ps(weight, _mm256_mul_ps(v_scale(j), _mm256_set1_ps(fixed.steps)));
        put(weight, scores + (kOfPairs ? j * 4 : j * 8));
      }
      _mm256_storeu_ps(sum, total);
      factor[i] = _mm256_cvtss_f32(shrink);
      unit[i] = fixed.unit;
      most[i] = now;
    }
  }

  static void values(int n, const float* weight, const void* v, int64_t width, uint64_t mask, const float* factor,
                     const float* unit, float* out, const Ahead& ahead) {
    with_count(n, [&](auto count) {
      values_of<decltype(count)::value>(weight, v, width, mask, factor, unit, out, ahead);
    });
  }

  static void turn(const char* const* rows, int64_t words, uint32_t* to) {
    kv::Avx2::turn<float>(rows, words, reinterpret_cast<char*>(to));
  }

  // to[j] = log2(e) * from[j], j < n; the rest of 64 are 0.
  static void scaled(const float* from, int64_t n, float* to) {
    for (int j = 0; j < 8; j++) {
      const __m256i lanes = _mm256_castps_si256(lanes_of(bits(0, n) >> j * 8));
      put_bias(_mm256_maskload_ps(from + j * 8, lanes), to + j * 8);
    }
  }

  // to[j] = log2(e) * table[clamp(first + j, 0, width - 1)].
  static void ramp(const float* table, int64_t first, int64_t width, float* to) {
    const uint64_t inside = bits(-first, width - first), above = bits(width - first, kChunk);
    const __m256 low = _mm256_set1_ps(table[0]), high = _mm256_set1_ps(table[width - 1]);
    for (int j = 0; j < 8; j++) {
      const uint64_t read = inside >> j * 8 & 255;
      __m256 x = _mm256_blendv_ps(low, high, lanes_of(above >> j * 8));
      if (read != 0) {
        const __m256 lanes = lanes_of(read);
        x = _mm256_blendv_ps(x, _mm256_maskload_ps(table + first + j * 8, _mm256_castps_si256(lanes)), lanes);
      }
      put_bias(x, to + j * 8);
    }
  }

  // to[j] = log2(e) * table[clamp(position[j] - zero, 0, width - 1)]; not every int32 is clamped to the same end.
  static void lookup(const float* table, const int32_t* position, int64_t zero, int64_t width, float* to) {
    const __m256i least = _mm256_set1_epi32(saturated(zero)), most = _mm256_set1_epi32(saturated(zero + width - 1));
    for (int j = 0; j < 8; j++) {
      const __m256i p = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(position + j * 8));
      const __m256i at = _mm256_min_epi32(_mm256_max_epi32(p, least), most);
      const __m256i index = _mm256_sub_epi32(at, _mm256_set1_epi32(int32_t(zero)));  // modulo 2^32: zero need not fit
      put_bias(_mm256_i32gather_ps(table, index, 4), to + j * 8);
    }
  }

  // y = y * b + x * a, n a multiple of 8.
  static void axpby(float b, float* y, float a, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
      const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(y + i), _mm256_set1_ps(b));
      _mm256_storeu_ps(y + i, _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(a), scaled));
    }
  }
  static float exp2(float x) { return _mm256_cvtss_f32(exp2_8(_mm256_set1_ps(x))); }
  static float sum(const float* lanes) { return sum8(_mm256_loadu_ps(lanes)); }

  // Bit j: x[j] >= bound.
  static uint64_t at_least(const int32_t* x, int64_t n, int32_t bound) {
    uint64_t mask = 0;
    for (int64_t j = 0; j < n; j += 8) {
      const __m256i lanes = lanes8(n - j < 8 ? n - j : 8);
      const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(bound), _mm256_maskload_epi32(x + j, lanes));
      mask |= uint64_t(uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_andnot_si256(below, lanes))))) << j;
    }
    return mask;
  }

  // out = x * factor, f32 or bf16; n a multiple of 8.
  static void put_row(const float* x, float factor, int64_t n, void* out, bool bf16) {
    for (int64_t d = 0; d < n; d += 8) {
      const __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + d), _mm256_set1_ps(factor));
      if (bf16) _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(out) + d), bf16_of_8(y));
      else _mm256_storeu_ps(static_cast<float*>(out) + d, y);
    }
  }

 private:
  // Lanes of the low eight bits.
  static __m256 lanes_of(uint64_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits & 255)), bit), bit));
  }

  static void put_bias(__m256 x, float* to) { _mm256_storeu_ps(to, _mm256_mul_ps(x, _mm256_set1_ps(kLog2e))); }

  static uint32_t largest(__m256i x) {
    __m128i y = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return uint32_t(_mm_cvtsi128_si32(_mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1))));
  }

  // Eight queries or weights in the form that products read.
  static void put(__m256 x, float* to) {
    if constexpr (form == Form::kF32) {
      _mm256_storeu_ps(to, x);
    } else if constexpr (form == Form::kWidened) {
      _mm256_storeu_ps(to, float_of_8_bf16(bf16_of_8(x)));
    } else {
      const __m256i y = _mm256_cvtps_epi32(x);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                       _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1)));
    }
  }

  static constexpr int64_t kSteps = form == Form::kF32 ? 64 : 32;  // words of a chunk's keys

  template <int R>
  static void scores_of(const float* query, const float* unit, const void* k, int64_t head_dim, float* to,
                        Ahead ahead) {
    constexpr int N = columns_of(R);
    const int64_t steps = form == Form::kF32 ? head_dim : head_dim / 2;
    ahead.lines = (ahead.lines * N + 7) / 8;  // each pass fetches its share
    for (int64_t c = 0; c < 8; c += N) {
      __m256 acc[R][N];
#pragma GCC unroll 6
      for (int i = 0; i < R; i++)
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) acc[i][j] = _mm256_setzero_ps();
      product<form, R, N, false>(query, kQueryStride, static_cast<const char*>(k) + c * kVectorBytes<form>, 8, steps, 0,
                                 ahead, acc);
      ahead.at += ahead.lines * 64 * (steps / 4);
#pragma GCC unroll 6
      for (int i = 0; i < R; i++)
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) {
          if (form == Form::kInt) acc[i][j] = _mm256_mul_ps(floats(acc[i][j]), _mm256_set1_ps(unit[i]));
          _mm256_storeu_ps(to + i * kChunk + (c + j) * 8, acc[i][j]);
        }
    }
  }

  template <int R>
  static void values_of(const float* weight, const void* v, int64_t width, uint64_t mask, const float* factor,
                        const float* unit, float* out, Ahead ahead) {
    constexpr int N = columns_of(R);
    const char* b = static_cast<const char*>(v);
    ahead.lines = (ahead.lines * N + 7) / 8;  // each pass fetches its share
    for (int64_t d = 0; d < width; d += 64) {
      const int64_t columns = width - d < 64 ? (width - d) / 8 : 8;
      int64_t c = 0;
      for (; c + N <= columns; c += N, ahead.at += ahead.lines * 64 * (kSteps / 4))
        values_block<R, N>(weight, b + c * kVectorBytes<form>, columns, mask, factor, unit, out + d + c * 8, width,
                           ahead);
      for (; c < columns; c += 2)
        values_block<R, 2>(weight, b + c * kVectorBytes<form>, columns, mask, factor, unit, out + d + c * 8, width,
                           ahead);
      b += kSteps * columns * kVectorBytes<form>;
    }
  }

  template <int R, int N>
  static void values_block(const float* weight, const char* b, int64_t b_stride, uint64_t mask, const float* factor,
                           const float* unit, float* out, int64_t width, const Ahead& ahead) {
    const auto shrunk = [&](int i, int j) __attribute__((always_inline)) {
      return _mm256_mul_ps(_mm256_loadu_ps(out + i * width + j * 8), _mm256_set1_ps(factor[i]));
    };
    __m256 acc[R][N];
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) acc[i][j] = form == Form::kInt ? _mm256_setzero_ps() : shrunk(i, j);
    if (mask == ~uint64_t(0)) product<form, R, N, false>(weight, kChunk, b, b_stride, kSteps, mask, ahead, acc);
    else product<form, R, N, true>(weight, kChunk, b, b_stride, kSteps, mask, ahead, acc);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) {
        if (form == Form::kInt) acc[i][j] = _mm256_fmadd_ps(floats(acc[i][j]), _mm256_set1_ps(unit[i]), shrunk(i, j));
        _mm256_storeu_ps(out + i * width + j * 8, acc[i][j]);
      }
  }

  // Of int32 sums.
  static __m256 floats(__m256 sums) { return _mm256_cvtepi32_ps(_mm256_castps_si256(sums)); }
};

}  // namespace
}  // namespace fth::attention
