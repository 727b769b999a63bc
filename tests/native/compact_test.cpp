// Gather and scatter-add: exact on every instruction set, other rows untouched, and the refusals.
#include "arguments.h"

using test::Guarded;

// The first `count` of a random order of 0 .. n - 1.
static void choose(test::Random& random, int32_t* index, int64_t count, int64_t n) {
  Guarded<int32_t> all(n);
  for (int64_t i = 0; i < n; i++) all[i] = int32_t(i);
  for (int64_t i = 0; i < count; i++) {
    const int64_t j = i + random.below(n - i);
    index[i] = all[j];
    all[j] = all[i];
  }
}

TEST(gather_copies_rows) {
  test::Context ctx(FTH_ISA_AUTO, 2);
  test::Random random(1);
  for (int32_t width : {1, 7, 64, 333}) {
    Guarded<float> x(20 * width), y(50 * width);
    Guarded<int32_t> index(50);
    random.fill(x, x.size());
    for (int i = 0; i < 50; i++) index[i] = int32_t(random.below(20));
    EXPECT_OK(ctx, fth_gather(ctx, width, 20, 50, index, x, y));
    for (int i = 0; i < 50; i++)
      EXPECT(memcmp(y + i * width, x + index[i] * width, sizeof(float) * size_t(width)) == 0, "row %d", i);
  }
}

TEST(scatter_stores_rows) {
  test::Context ctx(FTH_ISA_AUTO, 2);
  test::Random random(2);
  for (int32_t width : {1, 7, 64, 333}) {
    Guarded<float> x(50 * width), want(50 * width), y(20 * width);
    Guarded<int32_t> index(20);
    random.fill(x, x.size());
    random.fill(y, y.size());
    choose(random, index, 20, 50);
    want.copy_from(x);
    for (int i = 0; i < 20; i++) memcpy(want + index[i] * width, y + i * width, sizeof(float) * size_t(width));
    EXPECT_OK(ctx, fth_scatter(ctx, width, 50, 20, index, y, x));
    EXPECT(memcmp(x, want, sizeof(float) * size_t(x.size())) == 0, "width %d", width);
  }
}

TEST(scatter_add_adds_gated_rows) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t width : {1, 7, 8, 16, 17, 100, 1000})
      for (int options = 0; options < 4; options++) {
        const bool gated = options & 1, sorted = options & 2;
        const int64_t targets = 90, count = 40;
        test::Context ctx(isa, 3);
        test::Random random(uint64_t(width + options));
        Guarded<float> x(targets * width), want(targets * width), y(count * width), gate(count);
        Guarded<int32_t> index(count);
        random.fill(x, x.size());
        random.fill(y, y.size());
        random.fill(gate, count);
        choose(random, index, count, targets);
        if (sorted) for (int i = 0; i < count; i++) index[i] = 2 * i;
        want.copy_from(x);
        for (int64_t i = 0; i < count; i++)
          for (int64_t k = 0; k < width; k++) {
            const float added = gated ? gate[i] * y[i * width + k] : y[i * width + k];
            want[index[i] * width + k] += added;
          }
        EXPECT_OK(ctx, fth_scatter_add(ctx, width, targets, count, index, gated ? gate.get() : nullptr, y, x));
        EXPECT(memcmp(x, want, sizeof(float) * size_t(x.size())) == 0, "isa %d width %d", isa, width);
      }
}

TEST(keeps_to_its_arguments) {
  enum { kGather, kScatter, kScatterAdd };
  for (int what : {kGather, kScatter, kScatterAdd})
    for (int32_t size : {1, 7, 16, 35}) {
      test::Arguments a;
      int32_t width = size;
      int64_t count = 3, others = 5;
      const bool gather = what == kGather;
      const auto index = a.input<int32_t>("index", count);
      const auto gate = a.optional<float>("gate", what == kScatterAdd ? count : 0);
      const auto from = a.input<float>(gather ? "x" : "y", (gather ? others : count) * width);
      const auto to = a.output<float>(gather ? "y" : "x", (gather ? count : others) * width);
      index[0] = 4;
      index[1] = 0;
      index[2] = gather ? 4 : 2;
      for (const auto& v : {gate, from, to}) a.random.fill(v, v.size());
      a.call = [&](fth_context* ctx) {
        return what == kGather    ? fth_gather(ctx, width, others, count, index, from, to)
               : what == kScatter ? fth_scatter(ctx, width, others, count, index, from, to)
                                  : fth_scatter_add(ctx, width, others, count, index, gate, from, to);
      };
      a.guards();
      if (size != 7) continue;
      a.refusals();
      a.nothing(count);
      a.counts(count);
      a.range("width", width, 1, 1 << 24);
      a.range(gather ? "source_count" : "target_count", others, 0, 1 << 30);
      a.range("index[1]", index[1], 0, 4);
      if (!gather) a.refused("index[2] must differ from all before it, got 4 again", index[2], 4);
      others = 0;
      a.refused("index[0] must be in 0..-1, got 0", index[0], 0);
    }
}
