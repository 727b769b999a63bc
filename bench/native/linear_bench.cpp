#include <stdio.h>

#include "bench.h"

namespace {

struct Shape {
  const char* name;
  int32_t in, out, glu;
};
constexpr Shape kShapes[] = {
    {"SmolLM-360M q,k,v", 960, 1600, 0}, {"SmolLM-360M gate,up", 960, 2560, 1}, {"SmolLM-360M down", 2560, 960, 0},
    {"TinyLlama q,k,v", 2048, 2560, 0},  {"TinyLlama gate,up", 2048, 5632, 1},  {"TinyLlama down", 5632, 2048, 0},
};

void measure(fth_context* ctx, const bench::Options& options, const bench::Limits& limits, const Shape& s, int32_t type,
             int64_t count, bool streamed) {
  const fth_linear_shape shape{s.in, s.out, type, s.glu ? FTH_SILU : FTH_IDENTITY, s.glu, FTH_RESIDUAL_NONE, 0, 0};
  int64_t weight = 0;
  MUST(ctx, fth_linear_bytes(ctx, &shape, &weight));
  const int64_t copies = streamed ? (int64_t(400) << 20) / weight + 1 : 1;
  bench::Memory weights(copies * weight), x(count * s.in * 4), y(count * s.out * 4);
  weights.fill();
  x.fill();

  // Reading the same number of bytes alternates with the product, so that both see the same machine.
  bench::Samples samples, reads;
  int64_t copy = 0;
  const auto next = [&] { return weights.bytes() + copy++ % copies * weight; };
  const double until = bench::now() + options.seconds;
  do {
    const char* w = next();
    reads.time([&] { bench::read_all(ctx, w, weight); });
    w = next();
    samples.time([&] {
      MUST(ctx, fth_linear(ctx, &shape, count, nullptr, x.floats(), w, nullptr, nullptr, nullptr, nullptr, y.floats()));
    });
  } while (bench::now() < until);

  const double flops = 2.0 * double(count) * s.in * s.out * (1 + s.glu), read = reads.median();
  const double compute = flops / (type == FTH_BF16 ? limits.bf16 : limits.f32);
  char what[64];
  snprintf(what, sizeof what, "%s %s %lld rows %s", s.name, type == FTH_BF16 ? "bf16" : "f32", (long long)count,
           streamed ? "streamed" : "resident");
  bench::report({"linear", what, ctx->info.workers, flops, double(weight), compute > read ? compute : read}, samples);
}

}  // namespace

BENCH(linear) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (const Shape& shape : kShapes)
      for (int64_t count : {1, 4, 16, 128, 512})
        for (bool streamed : {true, false}) measure(ctx, options, limits, shape, type, count, streamed);
}
