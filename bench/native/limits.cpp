// What the machine does at best: loops that only read or copy, and loops that only multiply and add.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "bench.h"

namespace bench {
namespace {

volatile float sink;

// 24 independent chains of registers: enough for every latency and issue width.
constexpr int kChains = 24;

__attribute__((target("avx512f"))) void fma_avx512(int64_t rounds) {
  __m512 chain[kChains], x = _mm512_set1_ps(sink), sum = x;
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) chain[i] = _mm512_set1_ps(float(i));
  for (int64_t k = 0; k < rounds; k++)
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) chain[i] = _mm512_fmadd_ps(chain[i], x, x);
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) sum = _mm512_add_ps(sum, chain[i]);
  sink = _mm512_cvtss_f32(sum);
}

__attribute__((target("avx512f,avx512bf16"))) void dot_avx512(int64_t rounds) {
  __m512 chain[kChains], x = _mm512_set1_ps(sink), sum = x;
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) chain[i] = _mm512_set1_ps(float(i));
  for (int64_t k = 0; k < rounds; k++)
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) chain[i] = _mm512_dpbf16_ps(chain[i], (__m512bh)x, (__m512bh)x);
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) sum = _mm512_add_ps(sum, chain[i]);
  sink = _mm512_cvtss_f32(sum);
}

__attribute__((target("avx512f,avx512vnni"))) void dot8_avx512(int64_t rounds) {
  __m512i chain[kChains], x = _mm512_set1_epi32(int(sink)), sum = x;
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) chain[i] = _mm512_set1_epi32(i);
  for (int64_t k = 0; k < rounds; k++)
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) asm("vpdpbusd %1, %1, %0" : "+v"(chain[i]) : "v"(x));  // GCC 12 copies registers
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) sum = _mm512_add_epi32(sum, chain[i]);
  sink = float(_mm512_cvtsi512_si32(sum));
}

constexpr int kChains8 = 12;

__attribute__((target("avx2,fma"))) void fma_avx2(int64_t rounds) {
  __m256 chain[kChains8], x = _mm256_set1_ps(sink), sum = x;
#pragma GCC unroll 12
  for (int i = 0; i < kChains8; i++) chain[i] = _mm256_set1_ps(float(i));
  for (int64_t k = 0; k < rounds; k++)
#pragma GCC unroll 12
    for (int i = 0; i < kChains8; i++) chain[i] = _mm256_fmadd_ps(chain[i], x, x);
#pragma GCC unroll 12
  for (int i = 0; i < kChains8; i++) sum = _mm256_add_ps(sum, chain[i]);
  sink = _mm256_cvtss_f32(sum);
}

// Without VNNI: products of neighbours to 16 bits, their sums to 32.
__attribute__((target("avx2"))) void dot8_avx2(int64_t rounds) {
  __m256i chain[kChains8], x = _mm256_set1_epi8(char(sink)), ones = _mm256_set1_epi16(1), sum = x;
#pragma GCC unroll 12
  for (int i = 0; i < kChains8; i++) chain[i] = _mm256_set1_epi8(char(i));
  for (int64_t k = 0; k < rounds; k++)
#pragma GCC unroll 12
    for (int i = 0; i < kChains8; i++)
      chain[i] = _mm256_add_epi32(chain[i], _mm256_madd_epi16(_mm256_maddubs_epi16(chain[i], x), ones));
#pragma GCC unroll 12
  for (int i = 0; i < kChains8; i++) sum = _mm256_add_epi32(sum, chain[i]);
  sink = float(_mm256_extract_epi32(sum, 0));
}

void fma_scalar(int64_t rounds) {
  float chain[8], x = sink, sum = x;
  for (int i = 0; i < 8; i++) chain[i] = float(i);
  for (int64_t k = 0; k < rounds; k++)
    for (int i = 0; i < 8; i++) chain[i] = chain[i] * x + x;
  for (int i = 0; i < 8; i++) sum += chain[i];
  sink = sum;
}

__attribute__((target("avx512f"))) void read_avx512(const char* data, int64_t bytes) {
  __m512i sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) sum[i] = _mm512_setzero_si512();
  for (int64_t at = 0; at + 512 <= bytes; at += 512)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) sum[i] = _mm512_or_si512(sum[i], _mm512_loadu_si512(data + at + i * 64));
#pragma GCC unroll 8
  for (int i = 1; i < 8; i++) sum[0] = _mm512_or_si512(sum[0], sum[i]);
  sink = float(_mm512_cvtsi512_si32(sum[0]));
}

__attribute__((target("avx2"))) void read_avx2(const char* data, int64_t bytes) {
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

void read_scalar(const char* data, int64_t bytes) {
  const uint64_t* words = reinterpret_cast<const uint64_t*>(data);
  uint64_t sum[8] = {};
  for (int64_t at = 0; at + 8 <= bytes / 8; at += 8)
    for (int i = 0; i < 8; i++) sum[i] |= words[at + i];
  for (int i = 1; i < 8; i++) sum[0] |= sum[i];
  sink = float(sum[0]);
}

// A loop that only multiplies and adds, and the FLOPs of a round of it.
struct Arithmetic {
  void (*loop)(int64_t rounds);
  double flops;
};

Arithmetic arithmetic(fth_context* ctx, int32_t type) {
  const int32_t isa = ctx->info.isa;
  const bool bf16 = type == FTH_BF16 || type == FTH_F8_E4M3;
  if (type != FTH_F32 && !bf16) {
    if (isa == FTH_ISA_AVX512 && __builtin_cpu_supports("avx512vnni")) return {dot8_avx512, 2.0 * 64 * kChains};
    if (isa >= FTH_ISA_AVX2) return {dot8_avx2, 2.0 * 32 * kChains8};
  }
  if (bf16 && ctx->info.bf16_dot) return {dot_avx512, 4.0 * 16 * kChains};
  if (isa == FTH_ISA_AVX512) return {fma_avx512, 2.0 * 16 * kChains};
  if (isa == FTH_ISA_AVX2) return {fma_avx2, 2.0 * 8 * kChains8};
  return {fma_scalar, 2.0 * 8};
}

// The arithmetic of so many FLOPs of products with weights of this type, by all workers, and nothing else.
void calculate(fth_context* ctx, int32_t type, double flops) {
  const Arithmetic a = arithmetic(ctx, type);
  const int64_t workers = ctx->info.workers, rounds = int64_t(ceil(flops / (a.flops * double(workers))));
  fth::parallel(ctx, workers, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t worker = begin; worker < end; worker++) a.loop(rounds);
  });
}

// slice(from, to) of a buffer by every worker.
template <class F>
void slices(fth_context* ctx, int64_t bytes, F slice) {
  const int64_t workers = ctx->info.workers;
  fth::parallel(ctx, workers, 1, [&](int64_t begin, int64_t end, int) {
    slice(bytes * begin / workers / 64 * 64, bytes * end / workers / 64 * 64);
  });
}

// What memcpy reads and writes: the first half goes to the second.
void copy_all(fth_context* ctx, char* data, int64_t bytes) {
  char* to = data + bytes / 2;
  slices(ctx, bytes / 2, [&](int64_t begin, int64_t end) { memcpy(to + begin, data + begin, size_t(end - begin)); });
}

// Bytes/s of `move`, which goes over `bytes` of memory again and again, so that what a cache can hold comes from there.
// A large buffer goes in pieces, so that an interruption spoils little; a small one many times per look at the clock.
template <class F>
double memory_rate(const Memory& memory, int64_t bytes, F move) {
  constexpr int64_t kMostPiece = int64_t(16) << 20, kLeastSample = int64_t(1) << 20;
  constexpr double kSeconds = 0.1;
  const int64_t piece = bytes < kMostPiece ? bytes : kMostPiece, repeats = fth::ceil_div(kLeastSample, piece);
  Samples samples;
  const double until = now() + kSeconds;
  do {
    for (int64_t at = 0; at < bytes; at += piece)
      samples.time([&] {
        for (int64_t i = 0; i < repeats; i++) move(memory.bytes() + at, piece);
      });
  } while (now() < until);
  return double(piece * repeats) / samples.median();
}

}  // namespace

void read_all(fth_context* ctx, const char* data, int64_t bytes) {
  const auto read = fth::for_isa(ctx, read_scalar, read_avx2, read_avx512);
  slices(ctx, bytes, [&](int64_t begin, int64_t end) { read(data + begin, end - begin); });
}

double read_rate(fth_context* ctx, const Memory& memory, int64_t bytes) {
  return memory_rate(memory, bytes, [&](char* data, int64_t piece) { read_all(ctx, data, piece); });
}
double copy_rate(fth_context* ctx, const Memory& memory, int64_t bytes) {
  return memory_rate(memory, bytes, [&](char* data, int64_t piece) { copy_all(ctx, data, piece); });
}

double peak(fth_context* ctx, int32_t type) {
  const double flops = 1e8 * ctx->info.workers;
  Samples samples;
  for (int i = 0; i < 40; i++) samples.time([&] { calculate(ctx, type, flops); });
  return flops / samples.best();
}

void Ideal::sample(const char* data) {
  reads_.time([&] { read_all(ctx_, data, int64_t(bytes_)); });
  calculations_.time([&] { calculate(ctx_, type_, flops_); });
}

Limits measure_limits(fth_context* ctx) {
  Limits limits = {peak(ctx, FTH_F32), peak(ctx, FTH_BF16), peak(ctx, FTH_I8), {}};
  Memory memory(kReadBytes[kReads - 1]);
  memory.fill();
  for (int i = 0; i < kReads; i++) limits.read[i] = read_rate(ctx, memory, kReadBytes[i]);
  return limits;
}

}  // namespace bench
