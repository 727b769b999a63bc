// What sharing weights buys: the same work on one layer that stays in a cache and on distinct layers that come from
// memory. Both alternate, so that they see the same machine.
#include <stdio.h>

#include "block_step.h"

namespace {

constexpr int64_t kDistinct = int64_t(400) << 20;  // bytes that no cache holds

// `rows` at as many depths through one layer, against each of them alone through distinct layers; and reading the same
// weights, without which neither can be done.
void kernel(fth_context* ctx, const bench::Options& options, int64_t rows) {
  bench::BlockStep shared(ctx, 1, rows), single(ctx, 1, 1, kDistinct / shared.weight_bytes() + 1);
  const int64_t bytes = shared.weight_bytes();
  bench::Samples of_shared, of_distinct;
  bench::Ideal ideal_shared(ctx, FTH_BF16, shared.flops(), double(bytes)),
      ideal_distinct(ctx, FTH_BF16, single.flops(), double(bytes));
  int64_t copy = 0;
  const double until = bench::now() + 4 * options.seconds;
  do {
    for (int i = 0; i < 8; i++) {
      const int64_t one = copy++ % single.copies(), other = copy++ % single.copies();
      of_distinct.time([&] { single.run(one); });
      ideal_distinct.sample(single.weights(other));
    }
    shared.run();  // comes back into the cache
    for (int i = 0; i < 8; i++) {
      of_shared.time([&] { shared.run(); });
      ideal_shared.sample(shared.weights(0));
    }
  } while (bench::now() < until);
  char what[64];
  bench::report(ideal_distinct.line("sharing", "1 row, distinct layers"), of_distinct);
  snprintf(what, sizeof what, "%lld row%s, one layer", (long long)rows, rows > 1 ? "s" : "");
  bench::report(ideal_shared.line("sharing", what), of_shared);
  printf("%-10s   %.2f times as many rows in the same time; reading alone: %.2f times\n", "",
         double(rows) * of_distinct.median() / of_shared.median(),
         ideal_distinct.read_seconds() / ideal_shared.read_seconds());
}

// One token through 24 effective layers: `layers` that are each passed as often as it takes, against 24 layers.
void token(fth_context* ctx, const bench::Options& options, int layers) {
  constexpr int kEffective = 24;
  const int passes = kEffective / layers;
  bench::BlockStep step(ctx, 1, 1, kEffective);
  const int64_t bytes = step.weight_bytes();
  const double flops = kEffective * step.flops();
  bench::Samples of_shared, of_distinct;
  bench::Ideal ideal_shared(ctx, FTH_BF16, flops, double(layers * bytes)),
      ideal_distinct(ctx, FTH_BF16, flops, double(kEffective * bytes));
  const double until = bench::now() + 4 * options.seconds;
  do {
    of_distinct.time([&] {
      for (int layer = 0; layer < kEffective; layer++) step.run(layer);
    });
    ideal_distinct.sample(step.weights(0));
    of_shared.time([&] {
      for (int layer = 0; layer < layers; layer++)
        for (int pass = 0; pass < passes; pass++) step.run(layer);
    });
    ideal_shared.sample(step.weights(0));
  } while (bench::now() < until);
  char what[64];
  snprintf(what, sizeof what, "a token, %d layers", kEffective);
  bench::report(ideal_distinct.line("sharing", what), of_distinct);
  snprintf(what, sizeof what, "a token, %d layer%s, %d times each", layers, layers > 1 ? "s" : "", passes);
  bench::report(ideal_shared.line("sharing", what), of_shared);
  printf("%-10s   %.2f times as fast\n", "", of_distinct.median() / of_shared.median());
}

}  // namespace

BENCH(sharing) {
  for (int64_t rows : {1, 4}) kernel(ctx, options, rows);
  for (int layers : {8, 1}) token(ctx, options, layers);
}
