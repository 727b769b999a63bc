// What the machine does at best: loops that only read, and loops that only multiply and add.
#include <immintrin.h>

#include "bench.h"

namespace bench {
namespace {

volatile float sink;

// 24 independent chains of registers: enough for every latency and issue width.
constexpr int64_t kRounds = 200000;
constexpr int kChains = 24;

__attribute__((target("avx512f"))) void fma_avx512() {
  __m512 chain[kChains], x = _mm512_set1_ps(sink), sum = x;
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) chain[i] = _mm512_set1_ps(float(i));
  for (int64_t k = 0; k < kRounds; k++)
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) chain[i] = _mm512_fmadd_ps(chain[i], x, x);
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) sum = _mm512_add_ps(sum, chain[i]);
  sink = _mm512_cvtss_f32(sum);
}

__attribute__((target("avx512f,avx512bf16"))) void dot_avx512() {
  __m512 chain[kChains], x = _mm512_set1_ps(sink), sum = x;
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) chain[i] = _mm512_set1_ps(float(i));
  for (int64_t k = 0; k < kRounds; k++)
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) chain[i] = _mm512_dpbf16_ps(chain[i], (__m512bh)x, (__m512bh)x);
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) sum = _mm512_add_ps(sum, chain[i]);
  sink = _mm512_cvtss_f32(sum);
}

constexpr int kChains8 = 12;

__attribute__((target("avx2,fma"))) void fma_avx2() {
  __m256 chain[kChains8], x = _mm256_set1_ps(sink), sum = x;
#pragma GCC unroll 12
  for (int i = 0; i < kChains8; i++) chain[i] = _mm256_set1_ps(float(i));
  for (int64_t k = 0; k < kRounds; k++)
#pragma GCC unroll 12
    for (int i = 0; i < kChains8; i++) chain[i] = _mm256_fmadd_ps(chain[i], x, x);
#pragma GCC unroll 12
  for (int i = 0; i < kChains8; i++) sum = _mm256_add_ps(sum, chain[i]);
  sink = _mm256_cvtss_f32(sum);
}

void fma_scalar() {
  float chain[8], x = sink, sum = x;
  for (int i = 0; i < 8; i++) chain[i] = float(i);
  for (int64_t k = 0; k < kRounds; k++)
    for (int i = 0; i < 8; i++) chain[i] = chain[i] * x + x;
  for (int i = 0; i < 8; i++) sum += chain[i];
  sink = sum;
}

__attribute__((target("avx2"))) void read_slice(const char* data, int64_t bytes) {
  __m256i sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) sum[i] = _mm256_setzero_si256();
  for (int64_t at = 0; at + 256 <= bytes; at += 256)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
      sum[i] = _mm256_or_si256(sum[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at + i * 32)));
#pragma GCC unroll 8
  for (int i = 1; i < 8; i++) sum[0] = _mm256_or_si256(sum[0], sum[i]);
  sink = float(_mm256_extract_epi32(sum[0], 0));
}

// FLOP/s of `loop`, which does `flops` per call, on every worker at once.
double rate(fth_context* ctx, void (*loop)(), double flops) {
  double best = 1e30;
  for (int i = 0; i < 40; i++) {
    const double seconds =
        seconds_of([&] { fth::parallel(ctx, ctx->info.workers, 1, [&](int64_t, int64_t, int) { loop(); }); });
    best = seconds < best ? seconds : best;
  }
  return flops * ctx->info.workers / best;
}

}  // namespace

void read_all(fth_context* ctx, const char* data, int64_t bytes) {
  const int64_t workers = ctx->info.workers;
  fth::parallel(ctx, workers, 1, [&](int64_t begin, int64_t end, int) {
    const int64_t from = bytes * begin / workers / 64 * 64, to = bytes * end / workers / 64 * 64;
    read_slice(data + from, to - from);
  });
}

Limits measure_limits(fth_context* ctx) {
  Limits limits{};
  const int32_t isa = ctx->info.isa;
  limits.f32 = isa == FTH_ISA_AVX512 ? rate(ctx, fma_avx512, 2.0 * 16 * kChains * kRounds)
               : isa == FTH_ISA_AVX2 ? rate(ctx, fma_avx2, 2.0 * 8 * kChains8 * kRounds)
                                     : rate(ctx, fma_scalar, 2.0 * 8 * kRounds);
  limits.bf16 = ctx->info.bf16_dot ? rate(ctx, dot_avx512, 4.0 * 16 * kChains * kRounds) : limits.f32;
  const int64_t bytes = int64_t(512) << 20;
  Memory memory(bytes);
  memory.fill();
  constexpr int64_t kPiece = int64_t(16) << 20;
  Samples reads;
  for (int64_t round = 0; round < 4; round++)
    for (int64_t at = 0; at < bytes; at += kPiece) reads.time([&] { read_all(ctx, memory.bytes() + at, kPiece); });
  limits.read = double(kPiece) / reads.median();
  return limits;
}

}  // namespace bench
