// State deltas against double, rows that stand still, bits that depend on the row alone, and the refusals.
#include "arguments.h"

using test::Guarded;

static constexpr double kUlp = 6e-8;  // half an ulp of 1

struct States {
  int64_t width, count;
  Guarded<float> before2, before, now;
  Guarded<fth_delta_stats> out;

  States(int64_t w, int64_t n)
      : width(w), count(n), before2(w * n), before(w * n), now(w * n), out(n) {
    test::Random random(uint64_t(w * 31 + n));
    random.fill(before2, w * n, 3.f);
    random.fill(before, w * n, 3.f);
    // Small steps: their squares come from differences, not from the sums of the states.
    for (int64_t i = 0; i < w * n; i++) now[i] = before[i] + random.uniform() * (i % 2 ? 1e-3f : 2.f);
  }
  void run(test::Context& ctx, bool second) {
    EXPECT_OK(ctx, fth_state_delta(ctx, int32_t(width), count, second ? before2.get() : nullptr, before, now, out));
  }
};

static void near(const char* what, float got, double want, double n, double extra) {
  // A sum of n squares or products errs by at most (n + 1) half ulps of the sum of magnitudes.
  EXPECT(fabs(got - want) <= (n + 1) * kUlp * fabs(want) + extra, "%s: %g, want %g", what, got, want);
}

TEST(sums_match_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int64_t width : {1, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 100, 1000, 4099, 40001})
      for (int64_t count : {1, 3, 17})
        for (bool second : {false, true}) {
          test::Context ctx(isa, 2);
          States s(width, count);
          s.run(ctx, second);
          for (int64_t i = 0; i < count; i++) {
            double dot = 0, size = 0, now = 0, before = 0, step = 0, acceleration = 0, lost = 0;
            for (int64_t k = i * width; k < (i + 1) * width; k++) {
              const double x = s.now[k], y = s.before[k], z = s.before2[k], d = x - y, a = d - (y - z);
              dot += x * y;
              size += fabs(x * y);
              now += x * x;
              before += y * y;
              step += d * d;
              acceleration += a * a;
              lost += 2 * fabs(a) * kUlp * (fabs(d) + fabs(y - z) + fabs(a));  // a's three subtractions
            }
            const double n = double(width);
            near("dot", s.out[i].dot, dot, n, (n + 1) * kUlp * (size - fabs(dot)));
            near("now", s.out[i].now, now, n, 0);
            near("before", s.out[i].before, before, n, 0);
            near("step", s.out[i].step, step, n + 2, 0);  // each difference is rounded
            if (second) near("acceleration", s.out[i].acceleration, acceleration, n, lost);
            else EXPECT(isnan(s.out[i].acceleration));
          }
        }
}

TEST(a_state_that_stands_still) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int64_t width : {1, 19, 64, 777, 20000}) {
      test::Context ctx(isa);
      States s(width, 2);
      s.now.copy_from(s.before);
      s.before2.copy_from(s.before);
      s.run(ctx, true);
      for (int i = 0; i < 2; i++) {
        EXPECT(s.out[i].dot == s.out[i].now && s.out[i].dot == s.out[i].before);
        EXPECT(s.out[i].step == 0 && s.out[i].acceleration == 0);
      }
      // Inputs may be one buffer.
      Guarded<fth_delta_stats> same(2);
      EXPECT_OK(ctx, fth_state_delta(ctx, int32_t(width), 2, s.now, s.now, s.now, same));
      EXPECT(memcmp(same, s.out, 2 * sizeof *s.out.get()) == 0);
    }
}

TEST(not_a_number_and_overflow_stay_in_their_row) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa);
    States s(37, 3), clean(37, 3);
    s.now[5] = NAN;
    s.now[2 * 37 + 36] = 1e30f;
    s.run(ctx, true);
    clean.run(ctx, true);
    EXPECT(isnan(s.out[0].dot) && isnan(s.out[0].now) && isnan(s.out[0].step) && isnan(s.out[0].acceleration));
    EXPECT(s.out[0].before == clean.out[0].before);
    EXPECT(memcmp(s.out + 1, clean.out + 1, sizeof *s.out.get()) == 0);
    EXPECT(isinf(s.out[2].now) && isinf(s.out[2].step) && s.out[2].before == clean.out[2].before);
  }
}

TEST(bits_do_not_depend_on_workers_or_company) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int64_t width : {5, 130, 2000}) {
      const int64_t count = 300;
      test::Context single(isa, 1), several(isa, 4);
      States s(width, count), many(width, count);
      s.run(single, true);
      many.run(several, true);
      EXPECT(memcmp(s.out, many.out, size_t(count) * sizeof *s.out.get()) == 0);
      Guarded<fth_delta_stats> alone(1);
      for (int64_t i : {int64_t(0), int64_t(123), count - 1}) {
        const int64_t at = i * width;
        EXPECT_OK(single, fth_state_delta(single, int32_t(width), 1, s.before2 + at, s.before + at, s.now + at, alone));
        EXPECT(memcmp(alone, s.out + i, sizeof *alone.get()) == 0, "isa %d row %d", isa, int(i));
      }
    }
}

TEST(keeps_to_its_arguments) {
  for (int32_t size : {1, 7, 16, 35}) {
    test::Arguments a;
    int32_t width = size;
    int64_t count = 3;
    const auto before2 = a.optional<float>("before2", count * width);
    const auto before = a.input<float>("before", count * width);
    const auto now = a.input<float>("now", count * width);
    const auto out = a.output<fth_delta_stats>("out", count);
    for (const auto& v : {before2, before, now}) a.random.fill(v, v.size());
    a.call = [&](fth_context* ctx) { return fth_state_delta(ctx, width, count, before2, before, now, out); };
    a.guards();
    if (size != 7) continue;
    a.refusals();
    a.nothing(count);
    a.counts(count);
    a.range("width", width, 1, 1 << 24);
  }
}
