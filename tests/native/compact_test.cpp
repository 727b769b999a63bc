// Gather and scatter-add: exact on every instruction set, other rows untouched, and the refusals.
#include "test.h"

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
  for (int32_t isa = 0; isa <= fth_isa_best(); isa++)
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

TEST(refuses_bad_arguments) {
  test::Context ctx;
  Guarded<float> x(12), y(12);
  Guarded<int32_t> index(3);
  index[0] = 2; index[1] = 0; index[2] = 2;
  EXPECT_REFUSED(ctx, "index[2] must differ from all before it, got 2 again",
                 fth_scatter_add(ctx, 4, 3, 3, index, nullptr, y, x));
  EXPECT_REFUSED(ctx, "index[2] must differ from all before it, got 2 again",
                 fth_scatter(ctx, 4, 3, 3, index, y, x));
  index[2] = 3;
  EXPECT_REFUSED(ctx, "index[2] must be in 0..2, got 3", fth_scatter(ctx, 4, 3, 3, index, y, x));
  EXPECT_REFUSED(ctx, "width", fth_scatter(ctx, 0, 3, 3, index, y, x));
  EXPECT_REFUSED(ctx, "target_count", fth_scatter(ctx, 4, -1, 3, index, y, x));
  EXPECT_REFUSED(ctx, "x must not be null", fth_scatter(ctx, 4, 3, 3, index, y, nullptr));
  EXPECT_REFUSED(ctx, "y and x must not overlap", fth_scatter(ctx, 4, 3, 1, index, x, x));
  EXPECT_REFUSED(ctx, "index[2] must be in 0..2, got 3", fth_scatter_add(ctx, 4, 3, 3, index, nullptr, y, x));
  EXPECT_REFUSED(ctx, "index[2] must be in 0..2, got 3", fth_gather(ctx, 4, 3, 3, index, x, y));
  index[2] = -1;
  EXPECT_REFUSED(ctx, "index[2] must be in 0..2, got -1", fth_gather(ctx, 4, 3, 3, index, x, y));
  EXPECT_REFUSED(ctx, "index[0]", fth_gather(ctx, 4, 0, 3, index, x, y));
  EXPECT_REFUSED(ctx, "width", fth_gather(ctx, 0, 3, 3, index, x, y));
  EXPECT_REFUSED(ctx, "width", fth_scatter_add(ctx, -1, 3, 3, index, nullptr, y, x));
  EXPECT_REFUSED(ctx, "count", fth_gather(ctx, 4, 3, -1, index, x, y));
  EXPECT_REFUSED(ctx, "target_count", fth_scatter_add(ctx, 4, -1, 3, index, nullptr, y, x));
  EXPECT_REFUSED(ctx, "source_count", fth_gather(ctx, 4, INT64_MAX, 3, index, x, y));
  EXPECT_REFUSED(ctx, "index must not be null", fth_gather(ctx, 4, 3, 3, nullptr, x, y));
  EXPECT_REFUSED(ctx, "x must not be null", fth_gather(ctx, 4, 3, 3, index, nullptr, y));
  EXPECT_REFUSED(ctx, "y must not be null", fth_scatter_add(ctx, 4, 3, 3, index, nullptr, nullptr, x));
  EXPECT_REFUSED(ctx, "x and y must not overlap", fth_gather(ctx, 4, 3, 1, index, x, x + 8));
  EXPECT_REFUSED(ctx, "y and x must not overlap", fth_scatter_add(ctx, 4, 3, 1, index, nullptr, x, x));
  EXPECT_REFUSED(ctx, "gate and x must not overlap", fth_scatter_add(ctx, 4, 3, 1, index, x, y, x));
  EXPECT_OK(ctx, fth_gather(ctx, 4, 0, 0, nullptr, nullptr, nullptr));
}
