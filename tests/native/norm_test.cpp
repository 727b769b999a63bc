// Norms against a double-precision evaluation of the formula, on every instruction set, with buffers against guard
// pages.
#include "arguments.h"

using test::Guarded;

static void compare(int32_t isa, int32_t kind, int32_t width, int64_t count, int32_t depths, bool with_gain,
                    bool with_bias, bool in_place) {
  test::Context ctx(isa, 2);
  test::Random random(uint64_t(width * 131 + count));
  Guarded<float> x(count * width), gain(depths * width), bias(depths * width), y(count * width);
  Guarded<fth_row> rows(count);
  random.fill(x, x.size(), 3.f);
  random.fill(gain, gain.size());
  random.fill(bias, bias.size());
  for (int64_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].depth = int32_t(random.below(depths)); }
  Guarded<float> input(count * width);
  input.copy_from(x);

  const fth_norm_shape shape{kind, width, depths, 1e-5f};
  float* out = in_place ? x.get() : y.get();
  EXPECT_OK(ctx, fth_norm(ctx, &shape, count, rows, x, with_gain ? gain.get() : nullptr,
                          with_bias ? bias.get() : nullptr, out));
  for (int64_t i = 0; i < count; i++) {
    const float* v = input + i * width;
    double mean = 0, squares = 0;
    if (kind == FTH_LAYER_NORM) { for (int k = 0; k < width; k++) mean += v[k]; mean /= width; }
    for (int k = 0; k < width; k++) squares += (v[k] - mean) * (v[k] - mean);
    const double scale = 1 / sqrt(squares / width + double(shape.eps));
    for (int k = 0; k < width; k++) {
      double want = (v[k] - mean) * scale;
      if (with_gain) want *= gain[rows[i].depth * width + k];
      if (with_bias) want += bias[rows[i].depth * width + k];
      // Sums of `width` terms in fp32 err by at most width/2 ulp of the sum; |y| <= sqrt(width).
      const double bound = 6e-8 * (4 + width * 0.5) * (fabs(want) + 1);
      EXPECT(fabs(out[i * width + k] - want) <= bound, "isa %d width %d: %g, want %g", isa, width, out[i * width + k],
             want);
    }
  }
}

TEST(matches_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t kind : {FTH_RMS_NORM, FTH_LAYER_NORM})
      for (int32_t width : {1, 7, 8, 15, 16, 17, 64, 100, 577})
        for (int64_t count : {1, 3, 40})
          for (int options = 0; options < 8; options++)
            compare(isa, kind, width, count, 1 + options % 3, options & 1, options & 2, options & 4);
}

TEST(bits_do_not_depend_on_workers_or_company) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    const int32_t width = 333;
    const int64_t count = 200;
    test::Random random(5);
    Guarded<float> x(count * width), one(count * width), many(count * width), alone(width);
    random.fill(x, x.size());
    const fth_norm_shape shape{FTH_RMS_NORM, width, 1, 1e-6f};
    test::Context single(isa, 1), several(isa, 4);
    EXPECT_OK(single, fth_norm(single, &shape, count, nullptr, x, nullptr, nullptr, one));
    EXPECT_OK(several, fth_norm(several, &shape, count, nullptr, x, nullptr, nullptr, many));
    EXPECT(memcmp(one, many, sizeof(float) * count * width) == 0);
    EXPECT_OK(single, fth_norm(single, &shape, 1, nullptr, x + 77 * width, nullptr, nullptr, alone));
    EXPECT(memcmp(alone, one + 77 * width, sizeof(float) * width) == 0);
  }
}

TEST(keeps_to_its_arguments) {
  for (int32_t kind : {FTH_RMS_NORM, FTH_LAYER_NORM})
    for (int32_t width : {1, 7, 16, 35})
      for (int32_t depths : {1, 3}) {
        test::Arguments a;
        int64_t count = 3;
        const auto shape = a.shape<fth_norm_shape>({kind, width, depths, 1e-5f});
        const auto rows = a.input<fth_row>("rows", depths == 1 ? 0 : count);
        const auto x = a.input<float>("x", count * width);
        const auto gain = a.optional<float>("gain", depths * width);
        const auto bias = a.optional<float>("bias", depths * width);
        const auto y = a.output<float>("y", count * width);
        for (int64_t i = 0; i < rows.size(); i++) {
          rows[i] = test::row();
          rows[i].depth = int32_t(i);
        }
        for (const auto& v : {x, gain, bias}) a.random.fill(v, v.size());
        a.call = [&](fth_context* ctx) {
          return fth_norm(ctx, shape, count, depths == 1 ? nullptr : rows.now(), x, gain, bias, y);
        };
        a.guards();
        if (depths == 1 || width != 7) continue;
        a.call = [&](fth_context* ctx) { return fth_norm(ctx, shape, count, rows, x, gain, bias, y); };
        a.refusals();
        a.in_place(x, y);
        a.nothing(count);
        a.counts(count);
        a.range("shape.kind", shape->kind, 0, 1);
        a.range("shape.width", shape->width, 1, 1 << 24);
        a.range("shape.depths", shape->depths, 1, 65536);
        a.not_negative("shape.eps", shape->eps);
        a.range("rows[1].depth", rows[1].depth, 0, 2);
      }
}

// With one depth it selects nothing.
TEST(rows_of_any_depth_share_one_gain) {
  test::Context ctx;
  Guarded<float> x(12), gain(4), want(12), y(12);
  Guarded<fth_row> rows(3);
  test::Random random(2);
  random.fill(x, 12);
  random.fill(gain, 4);
  for (int32_t i = 0; i < 3; i++) rows[i].depth = 5 * i - 1;
  const fth_norm_shape shape{FTH_RMS_NORM, 4, 1, 1e-5f};
  EXPECT_OK(ctx, fth_norm(ctx, &shape, 3, nullptr, x, gain, nullptr, want));
  EXPECT_OK(ctx, fth_norm(ctx, &shape, 3, rows, x, gain, nullptr, y));
  EXPECT(memcmp(y, want, 12 * sizeof(float)) == 0);
}
