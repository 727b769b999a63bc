// What sharing weights buys: the same work on one layer that stays in a cache and on distinct layers that come from
// memory. Both alternate, so that they see the same machine.
#include <stdio.h>

#include "block_step.h"

namespace {

constexpr int64_t kDistinct = int64_t(400) << 20;  // bytes that no cache holds

void line(fth_context* ctx, const char* what, double flops, double bytes, const bench::Limits& limits,
          const bench::Samples& reads, const bench::Samples& samples) {
  const double compute = flops / limits.bf16, read = reads.median();
  bench::report({"sharing", what, ctx->info.workers, flops, bytes, compute > read ? compute : read}, samples);
}

// `rows` at as many depths through one layer, against each of them alone through distinct layers; and reading the same
// weights, without which neither can be done.
void kernel(fth_context* ctx, const bench::Options& options, const bench::Limits& limits, int64_t rows) {
  bench::BlockStep shared(ctx, 1, rows), single(ctx, 1, 1, kDistinct / shared.weight_bytes() + 1);
  bench::Samples of_shared, of_distinct, shared_reads, distinct_reads;
  const int64_t bytes = shared.weight_bytes();
  int64_t copy = 0;
  const double until = bench::now() + 4 * options.seconds;
  do {
    for (int i = 0; i < 8; i++) {
      const int64_t one = copy++ % single.copies(), other = copy++ % single.copies();
      of_distinct.time([&] { single.run(one); });
      distinct_reads.time([&] { bench::read_all(ctx, single.weights(other), bytes); });
    }
    shared.run();  // comes back into the cache
    for (int i = 0; i < 8; i++) {
      of_shared.time([&] { shared.run(); });
      shared_reads.time([&] { bench::read_all(ctx, shared.weights(0), bytes); });
    }
  } while (bench::now() < until);
  char what[64];
  line(ctx, "1 row, distinct layers", single.flops(), double(bytes), limits, distinct_reads, of_distinct);
  snprintf(what, sizeof what, "%lld row%s, one layer", (long long)rows, rows > 1 ? "s" : "");
  line(ctx, what, shared.flops(), double(bytes), limits, shared_reads, of_shared);
  printf("%-10s   %.2f times as many rows in the same time; reading alone: %.2f times\n", "",
         double(rows) * of_distinct.median() / of_shared.median(), distinct_reads.median() / shared_reads.median());
}

// One token through 24 effective layers: `layers` that are each passed as often as it takes, against 24 layers.
void token(fth_context* ctx, const bench::Options& options, const bench::Limits& limits, int layers) {
  constexpr int kEffective = 24;
  const int passes = kEffective / layers;
  bench::BlockStep step(ctx, 1, 1, kEffective);
  bench::Samples of_shared, of_distinct, shared_reads, distinct_reads;
  const int64_t bytes = step.weight_bytes();
  const auto read = [&](int count) { bench::read_all(ctx, step.weights(0), count * bytes); };
  const double until = bench::now() + 4 * options.seconds;
  do {
    of_distinct.time([&] {
      for (int layer = 0; layer < kEffective; layer++) step.run(layer);
    });
    distinct_reads.time([&] { read(kEffective); });
    of_shared.time([&] {
      for (int layer = 0; layer < layers; layer++)
        for (int pass = 0; pass < passes; pass++) step.run(layer);
    });
    shared_reads.time([&] { read(layers); });
  } while (bench::now() < until);
  const double flops = kEffective * step.flops();
  char what[64];
  snprintf(what, sizeof what, "a token, %d layers", kEffective);
  line(ctx, what, flops, double(kEffective * bytes), limits, distinct_reads, of_distinct);
  snprintf(what, sizeof what, "a token, %d layer%s, %d times each", layers, layers > 1 ? "s" : "", passes);
  line(ctx, what, flops, double(layers * bytes), limits, shared_reads, of_shared);
  printf("%-10s   %.2f times as fast\n", "", of_distinct.median() / of_shared.median());
}

}  // namespace

BENCH(sharing) {
  for (int64_t rows : {1, 4}) kernel(ctx, options, limits, rows);
  for (int layers : {8, 1}) token(ctx, options, limits, layers);
}
