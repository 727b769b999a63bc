// Rotary embedding against the formula in double, equality of all instruction sets, and the refusals.
#include "arguments.h"

using test::Guarded;

// Angles as the contract defines them: the fp32 product of position and frequency.
static void compare(int32_t isa, const fth_rope_shape& shape, int64_t count, int32_t farthest) {
  test::Context ctx(isa, 2), reference(FTH_ISA_SCALAR, 1);
  test::Random random(uint64_t(shape.head_dim * 31 + shape.rotary_dim + count));
  const int64_t width = int64_t(shape.heads) * shape.head_dim, pairs = shape.rotary_dim / 2;
  Guarded<float> x(count * width), input(count * width), scalar(count * width), frequency(pairs);
  Guarded<fth_row> rows(count);
  random.fill(x, x.size(), 4.f);
  input.copy_from(x);
  scalar.copy_from(x);
  for (int64_t i = 0; i < pairs; i++) frequency[i] = powf(10000.f, -float(2 * i) / float(shape.rotary_dim));
  for (int64_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].position = int32_t(random.below(farthest)); }

  EXPECT_OK(ctx, fth_rope(ctx, &shape, count, rows, frequency, x));
  EXPECT_OK(reference, fth_rope(reference, &shape, count, rows, frequency, scalar));
  EXPECT(memcmp(x, scalar, sizeof(float) * size_t(count * width)) == 0, "isa %d differs from the reference", isa);
  for (int64_t i = 0; i < count; i++)
    for (int64_t h = 0; h < shape.heads; h++) {
      const float *v = input + i * width + h * shape.head_dim, *got = x + i * width + h * shape.head_dim;
      const bool half = shape.style == FTH_ROPE_HALF;
      for (int64_t k = 0; k < pairs; k++) {
        const int64_t a = half ? k : 2 * k, b = half ? k + pairs : 2 * k + 1;
        const double angle = double(float(rows[i].position) * frequency[k]), c = cos(angle), s = sin(angle);
        // cos, sin (1 ulp), two products and a sum: at most 3 ulp of |a| + |b|.
        const double bound = 3 * 6e-8 * (fabs(v[a]) + fabs(v[b]));
        EXPECT(fabs(got[a] - (v[a] * c - v[b] * s)) <= bound, "isa %d pair %d", isa, int(k));
        EXPECT(fabs(got[b] - (v[b] * c + v[a] * s)) <= bound, "isa %d pair %d", isa, int(k));
      }
      for (int64_t k = shape.rotary_dim; k < shape.head_dim; k++)
        EXPECT(got[k] == v[k], "not rotated, must be untouched");
    }
}

TEST(matches_the_formula_on_every_instruction_set) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t style : {FTH_ROPE_HALF, FTH_ROPE_INTERLEAVED})
      for (int32_t rotary : {2, 6, 16, 32, 34, 64, 96, 128})
        for (int32_t beyond : {0, 1, 16})
          for (int64_t count : {1, 9, 70}) compare(isa, {style, 3, rotary + beyond, rotary}, count, 100000);
}

TEST(large_positions_keep_their_precision) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) compare(isa, {FTH_ROPE_HALF, 2, 64, 64}, 50, 1 << 30);
}

TEST(without_rope_nothing_changes) {
  test::Context ctx;
  Guarded<float> x(8);
  Guarded<fth_row> rows(1);
  rows[0] = test::row();
  for (int i = 0; i < 8; i++) x[i] = float(i);
  const fth_rope_shape none{FTH_ROPE_NONE, 1, 8, 8}, zero{FTH_ROPE_HALF, 1, 8, 0};
  EXPECT_OK(ctx, fth_rope(ctx, &none, 1, rows, nullptr, x));
  EXPECT_OK(ctx, fth_rope(ctx, &zero, 1, rows, nullptr, x));
  EXPECT_OK(ctx, fth_rope(ctx, &zero, 0, nullptr, nullptr, nullptr));
  for (int i = 0; i < 8; i++) EXPECT(x[i] == float(i));
}

TEST(bits_do_not_depend_on_workers_or_company) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    const fth_rope_shape shape{FTH_ROPE_HALF, 4, 64, 48};
    const int64_t count = 200, width = 4 * 64;
    test::Random random(3);
    Guarded<float> one(count * width), many(count * width), alone(width), frequency(24);
    Guarded<fth_row> rows(count);
    random.fill(one, one.size());
    random.fill(frequency, 24);
    many.copy_from(one);
    memcpy(alone, one + 120 * width, sizeof(float) * width);
    for (int64_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].position = int32_t(random.below(5000)); }
    test::Context single(isa, 1), several(isa, 4);
    EXPECT_OK(single, fth_rope(single, &shape, count, rows, frequency, one));
    EXPECT_OK(several, fth_rope(several, &shape, count, rows, frequency, many));
    EXPECT_OK(single, fth_rope(single, &shape, 1, rows + 120, frequency, alone));
    EXPECT(memcmp(one, many, sizeof(float) * count * width) == 0);
    EXPECT(memcmp(alone, one + 120 * width, sizeof(float) * width) == 0);
  }
}

TEST(keeps_to_its_arguments) {
  for (int32_t style : {FTH_ROPE_HALF, FTH_ROPE_INTERLEAVED})
    for (int32_t rotary : {2, 8, 14, 32, 40}) {
      test::Arguments a;
      int64_t count = 3;
      const int32_t heads = 3, head_dim = rotary + 1;
      const auto shape = a.shape<fth_rope_shape>({style, heads, head_dim, rotary});
      const auto rows = a.input<fth_row>("rows", count);
      const auto frequency = a.input<float>("frequency", rotary / 2);
      const auto x = a.output<float>("x", count * heads * head_dim);
      for (int32_t i = 0; i < count; i++) {
        rows[i] = test::row();
        rows[i].position = 100 * i + 7;
      }
      a.random.fill(frequency, frequency.size());
      a.random.fill(x, x.size());
      a.call = [&](fth_context* ctx) { return fth_rope(ctx, shape, count, rows, frequency, x); };
      a.guards();
      if (rotary != 8) continue;
      a.refusals();
      a.nothing(count);
      a.counts(count);
      a.range("shape.style", shape->style, 0, 2);
      a.range("shape.head_dim", shape->head_dim, 1, 1 << 24);
      a.range("shape.heads", shape->heads, 1, (1 << 24) / 9);
      a.range("shape.rotary_dim", shape->rotary_dim, 0, 9);
      a.refused("shape.rotary_dim must be even, got 7", shape->rotary_dim, 7);
    }
}
