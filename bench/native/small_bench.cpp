// What surrounds the products of a step: head statistics, SpecEE's exit check, routers, norms, rotation, rows by index.
#include <stdio.h>
#include <string.h>

#include <algorithm>

#include "bench.h"

namespace {

using bench::Memory;

const char* type_name(int32_t type) { return type == FTH_BF16 ? "bf16" : "f32"; }

// ---- head statistics: the weights stream from memory, as between the steps of a model that is larger than the caches

void head(fth_context* ctx, const bench::Options& options, const Memory& weights,
          int32_t vocab, int32_t hidden, int32_t type, int64_t count) {
  const fth_linear_shape packing{hidden, vocab, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
  const fth_head_shape shape{hidden, vocab, type, FTH_RMS_NORM, 1e-5f, 1.f, 0.f, 0};
  int64_t bytes = 0;
  MUST(ctx, fth_linear_bytes(ctx, &packing, &bytes));
  const int64_t copies = (int64_t(2) << 30) / bytes;
  Memory h(count * hidden * 4), stats(count * int64_t(sizeof(fth_head_stats)));
  h.fill();
  bench::Ideal ideal(ctx, type, 2.0 * double(count) * vocab * hidden, double(bytes));
  bench::Samples samples;
  int64_t copy = 0;
  const auto next = [&] { return weights.bytes() + copy++ % copies * bytes; };
  const double until = bench::now() + options.seconds;
  do {
    ideal.sample(next());
    const char* w = next();
    samples.time([&] {
      MUST(ctx, fth_head(ctx, &shape, count, h.floats(), nullptr, nullptr, w, nullptr,
                         reinterpret_cast<fth_head_stats*>(stats.bytes()), nullptr, nullptr));
    });
  } while (bench::now() < until);
  char what[64];
  snprintf(what, sizeof what, "%d x %d %s %lld rows", vocab, hidden, type_name(type), (long long)count);
  bench::report(ideal.line("head", what), samples);
}

// ---- small operations: the same buffers again and again, beside one thread's memcpy of as many bytes

template <class F>
void small(fth_context* ctx, const bench::Options& options, const char* operation, const char* what, double bytes,
           F call) {
  const int64_t half = std::max(int64_t(bytes) / 2, int64_t(64));
  Memory from(half), to(half);
  from.fill();
  call();
  const int64_t repeats = std::max(int64_t(1), int64_t(20e-6 / bench::seconds_of(call)));
  bench::Samples samples, copies;
  const double until = bench::now() + options.seconds;
  do {
    copies.time([&] {
      memcpy(to.bytes(), from.bytes(), size_t(half));
      asm volatile("" ::: "memory");
    }, repeats);
    samples.time(call, repeats);
  } while (bench::now() < until);
  bench::report({operation, what, ctx->info.workers, 0, bytes, copies.median()}, samples);
}

void norm(fth_context* ctx, const bench::Options& options, int32_t width, int64_t count) {
  const fth_norm_shape shape{FTH_RMS_NORM, width, 1, 1e-5f};
  Memory x(count * width * 4), gain(width * 4), y(count * width * 4);
  x.fill();
  gain.fill();
  char what[64];
  snprintf(what, sizeof what, "RMS %d, %lld rows", width, (long long)count);
  small(ctx, options, "norm", what, 8.0 * double(count) * width, [&] {
    MUST(ctx, fth_norm(ctx, &shape, count, nullptr, x.floats(), gain.floats(), nullptr, y.floats()));
  });
}

void rope(fth_context* ctx, const bench::Options& options, int64_t count) {
  const fth_rope_shape shape{FTH_ROPE_HALF, 20, 64, 64};
  Memory rows(count * int64_t(sizeof(fth_row))), frequency(32 * 4), x(count * 20 * 64 * 4);
  frequency.fill();
  for (int64_t i = 0; i < count; i++) reinterpret_cast<fth_row*>(rows.bytes())[i].position = int32_t(100 + i);
  char what[64];
  snprintf(what, sizeof what, "20 heads of 64, %lld rows", (long long)count);
  small(ctx, options, "rope", what, 8.0 * double(count) * 20 * 64, [&] {
    MUST(ctx, fth_rope(ctx, &shape, count, reinterpret_cast<fth_row*>(rows.bytes()), frequency.floats(), x.floats()));
  });
}

// Ids in no order; every one once, if there are no more than `limit`.
void spread(int32_t* index, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; i++) index[i] = int32_t(i * 7919 % limit);
}

void embed(fth_context* ctx, const bench::Options& options, const Memory& table, int32_t width, int32_t type,
           int32_t packed, int64_t count) {
  const fth_embed_shape shape{49152, width, type, packed, 1.f, 0};
  Memory id(count * 4), out(count * width * 4);
  spread(reinterpret_cast<int32_t*>(id.bytes()), count, shape.vocab_size);
  char what[64];
  snprintf(what, sizeof what, "%d %s %s, %lld rows", width, type_name(type), packed ? "packed" : "plain",
           (long long)count);
  const double bytes = double(count) * width * (type == FTH_BF16 ? 6 : 8);
  small(ctx, options, "embed", what, bytes, [&] {
    MUST(ctx, fth_embed(ctx, &shape, count, reinterpret_cast<int32_t*>(id.bytes()), table.bytes(), out.floats()));
  });
}

void by_index(fth_context* ctx, const bench::Options& options, int32_t width, int64_t count) {
  const int64_t targets = 2 * count + 1;
  Memory index(count * 4), gate(count * 4), x(targets * width * 4), y(count * width * 4);
  for (int64_t i = 0; i < count; i++) reinterpret_cast<int32_t*>(index.bytes())[i] = int32_t(2 * i + 1);
  const int32_t* at = reinterpret_cast<int32_t*>(index.bytes());
  const double row_bytes = 4.0 * double(count) * width;
  char what[64];
  snprintf(what, sizeof what, "%d, %lld rows", width, (long long)count);
  small(ctx, options, "gather", what, 2 * row_bytes,
        [&] { MUST(ctx, fth_gather(ctx, width, targets, count, at, x.floats(), y.floats())); });
  small(ctx, options, "scatter", what, 2 * row_bytes,
        [&] { MUST(ctx, fth_scatter(ctx, width, targets, count, at, y.floats(), x.floats())); });
  small(ctx, options, "scatteradd", what, 3 * row_bytes, [&] {
    MUST(ctx, fth_scatter_add(ctx, width, targets, count, at, gate.floats(), y.floats(), x.floats()));
  });
}

void router(fth_context* ctx, const bench::Options& options, int32_t width, int32_t outputs, int64_t count) {
  const fth_gate_shape shape{width, 0, outputs, 1, FTH_ROUTER_LINEAR, FTH_GATE_SIGMOID, 1, 1, 0, FTH_IDENTITY, 0};
  int64_t bytes = 0;
  MUST(ctx, fth_gate_bytes(ctx, &shape, &bytes));
  Memory x(count * width * 4), packed(bytes), gate(count * 4), choice(count * 4);
  x.fill();
  char what[64];
  snprintf(what, sizeof what, "%d to %d, %lld rows", width, outputs, (long long)count);
  small(ctx, options, "router", what, 4.0 * double(count) * width, [&] {
    MUST(ctx, fth_gate(ctx, &shape, count, nullptr, x.floats(), packed.bytes(), nullptr, nullptr, nullptr,
                       gate.floats(), reinterpret_cast<int32_t*>(choice.bytes())));
  });
}

// SpecEE's check of one layer: norm, logits of 4 candidates, a router of 12 features. The candidates' rows of the LM
// head are gathered once per token.
void candidates(fth_context* ctx, const bench::Options& options, const Memory& table, int32_t hidden, int32_t type,
                int64_t count) {
  constexpr int32_t kCandidates = 4, kFeatures = 3 * kCandidates;
  const fth_embed_shape embed{32768, hidden, type, 1, 1.f, 0};
  const fth_norm_shape norm{FTH_RMS_NORM, hidden, 1, 1e-5f};
  const fth_gate_shape logits{hidden, 0, kCandidates, int32_t(count), FTH_ROUTER_LINEAR, FTH_GATE_SOFTMAX,
                              1, 1, 0, FTH_IDENTITY, 0};
  const fth_gate_shape predictor{kFeatures, 512, 1, 1, FTH_ROUTER_MLP, FTH_GATE_SIGMOID, 1, 1, 0, FTH_RELU, 1};
  int64_t logits_bytes = 0, predictor_bytes = 0;
  MUST(ctx, fth_gate_bytes(ctx, &logits, &logits_bytes));
  MUST(ctx, fth_gate_bytes(ctx, &predictor, &predictor_bytes));
  Memory id(count * kCandidates * 4), weights(logits_bytes), packed(predictor_bytes), h(count * hidden * 4),
      gain(hidden * 4), x(count * hidden * 4), rows(count * int64_t(sizeof(fth_row))), z(count * kCandidates * 4),
      p(count * kCandidates * 4), before(count * kCandidates * 4), features(count * kFeatures * 4), gate(count * 4),
      choice(count * 4);
  spread(reinterpret_cast<int32_t*>(id.bytes()), count * kCandidates, embed.vocab_size);
  h.fill();
  gain.fill();
  for (int64_t i = 0; i < count; i++) reinterpret_cast<fth_row*>(rows.bytes())[i].depth = int32_t(i);
  const auto* row = reinterpret_cast<fth_row*>(rows.bytes());
  int32_t* chosen = reinterpret_cast<int32_t*>(choice.bytes());

  char what[64];
  snprintf(what, sizeof what, "gather 4 of %d %s, %lld rows", hidden, type_name(type), (long long)count);
  small(ctx, options, "specee", what, double(count) * kCandidates * hidden * (type == FTH_BF16 ? 6 : 8), [&] {
    MUST(ctx, fth_embed(ctx, &embed, count * kCandidates, reinterpret_cast<int32_t*>(id.bytes()), table.bytes(),
                        weights.floats()));
  });
  snprintf(what, sizeof what, "check, hidden %d, %lld rows", hidden, (long long)count);
  const double bytes = double(count) * hidden * 4 * (2 + kCandidates) + double(predictor_bytes);
  if (type == FTH_F32) small(ctx, options, "specee", what, bytes, [&] {
    MUST(ctx, fth_norm(ctx, &norm, count, nullptr, h.floats(), gain.floats(), nullptr, x.floats()));
    MUST(ctx, fth_gate(ctx, &logits, count, row, x.floats(), weights.floats(), nullptr, z.floats(), p.floats(),
                       gate.floats(), chosen));
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = 0, k = i * kCandidates; c < kCandidates; c++, k++) {
        float* f = features.floats() + i * kFeatures + c;
        f[0] = z.floats()[k];
        f[kCandidates] = p.floats()[k];
        f[2 * kCandidates] = p.floats()[k] - before.floats()[k];
        before.floats()[k] = p.floats()[k];
      }
    MUST(ctx, fth_gate(ctx, &predictor, count, nullptr, features.floats(), packed.bytes(), nullptr, nullptr, nullptr,
                       gate.floats(), chosen));
  });
}

}  // namespace

BENCH(head) {
  Memory weights((int64_t(2) << 30) + (1 << 20));
  weights.fill();
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t hidden : {960, 2048})
      for (int32_t vocab : {32768, 131072, 262144})
        for (int64_t count : {1, 4, 16}) head(ctx, options, weights, vocab, hidden, type, count);
}

BENCH(small) {
  for (int32_t width : {960, 2048})
    for (int64_t count : {1, 16, 128}) {
      norm(ctx, options, width, count);
      by_index(ctx, options, width, count);
      router(ctx, options, width, 1, count);
      router(ctx, options, width, 3, count);
    }
  for (int64_t count : {1, 16, 128}) rope(ctx, options, count);
  Memory table(int64_t(49152) * 960 * 4);
  table.fill();
  for (int32_t packed : {0, 1})
    for (int32_t type : {FTH_F32, FTH_BF16})
      for (int64_t count : {1, 4, 128}) embed(ctx, options, table, 960, type, packed, count);
  Memory head(int64_t(32768) * 2048 * 4);
  head.fill();
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t hidden : {960, 2048})
      for (int64_t count : {1, 4, 16}) candidates(ctx, options, head, hidden, type, count);
}
