// Routers: logits against double, decisions against crafted logits (an identity matrix passes x through), the refusals.
#include "test.h"

using test::Guarded;

static constexpr double kUlp = 6e-8;  // half an ulp of 1

static double gelu(double z) { return 0.5 * z * erfc(-z * M_SQRT1_2); }

// sum of w[j] * x[j] and of the magnitudes, in double.
struct Sum { double value, magnitude; };
template <class X>
static Sum dot(const float* w, const X* x, int64_t n) {
  Sum s{0, 0};
  for (int64_t k = 0; k < n; k++) {
    s.value += double(w[k]) * double(x[k]);
    s.magnitude += fabs(double(w[k]) * double(x[k]));
  }
  return s;
}

struct Weights {
  Guarded<float> first, last;  // [depths, inner, hidden], [depths, outputs, width]
  Guarded<char> packed;

  static int64_t bytes(fth_context* ctx, const fth_gate_shape& s) {
    int64_t n = 0;
    fth_gate_bytes(ctx, &s, &n);
    return n;
  }
  Weights(test::Context& ctx, const fth_gate_shape& s, test::Random& random)
      : first(int64_t(s.depths) * s.inner_size * s.hidden_size),
        last(int64_t(s.depths) * s.outputs * width(s)),
        packed(bytes(ctx, s)) {
    random.fill(first, first.size(), 0.3f);
    random.fill(last, last.size(), 0.3f);
    for (int32_t d = 0; d < s.depths; d++) {
      const float* w2 = last + d * s.outputs * width(s);
      if (s.router == FTH_ROUTER_MLP) {
        EXPECT_OK(ctx, fth_gate_pack(ctx, &s, d, 0, FTH_F32, first + d * s.inner_size * s.hidden_size, packed));
        EXPECT_OK(ctx, fth_gate_pack(ctx, &s, d, 1, FTH_F32, w2, packed));
      } else {
        EXPECT_OK(ctx, fth_gate_pack(ctx, &s, d, 0, FTH_F32, w2, packed));
      }
    }
  }
  static int64_t width(const fth_gate_shape& s) { return s.router == FTH_ROUTER_MLP ? s.inner_size : s.hidden_size; }
};

static void compare_logits(int32_t isa, const fth_gate_shape& s, int64_t count) {
  test::Context ctx(isa, 2);
  test::Random random(uint64_t(s.hidden_size * 7 + s.outputs + count));
  const Weights w(ctx, s, random);
  const int64_t hidden = s.hidden_size, inner = s.inner_size, width = Weights::width(s);
  Guarded<float> x(count * hidden), logits(count * s.outputs), gate(count);
  Guarded<int32_t> choice(count);
  Guarded<fth_row> rows(count);
  Guarded<double> g(width);
  random.fill(x, x.size(), 2.f);
  for (int64_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].depth = int32_t(random.below(s.depths)); }
  EXPECT_OK(ctx,
            fth_gate(ctx, &s, count, s.depths == 1 ? nullptr : rows.get(), x, w.packed, nullptr, logits, gate, choice));
  for (int64_t i = 0; i < count; i++) {
    const float* row = x + i * hidden;
    // A sum of n products errs by at most (n + 1) half ulps of the sum of magnitudes; the division by one more.
    double carried = 0;  // error that W2 carries on from the hidden layer, per |w2|
    if (s.router == FTH_ROUTER_MLP)
      for (int64_t j = 0; j < inner; j++) {
        const Sum z = dot(w.first + (rows[i].depth * inner + j) * hidden, row, hidden);
        g[j] = gelu(z.value / s.temperature);
        // |gelu'| <= 1.13; gelu itself is good to 8 half ulps of its argument.
        const double error =
            (1.13 * (hidden + 2) * z.magnitude / s.temperature + 8 * fabs(z.value / s.temperature)) * kUlp;
        if (error > carried) carried = error;
      }
    for (int64_t j = 0; j < s.outputs; j++) {
      const float* v = w.last + (int64_t(rows[i].depth) * s.outputs + j) * width;
      const bool mlp = s.router == FTH_ROUTER_MLP;
      const Sum z = mlp ? dot(v, g.get(), width) : dot(v, row, width);
      double weights = 0;
      for (int64_t k = 0; k < width; k++) weights += fabs(v[k]);
      const double scale = mlp ? 1 : s.temperature, want = z.value / scale;
      const double bound = kUlp * (width + 2) * z.magnitude / scale + weights * carried + 1e-30;
      EXPECT(fabs(logits[i * s.outputs + j] - want) <= bound, "isa %d router %d width %d: %g, want %g", isa, s.router,
             int(width), logits[i * s.outputs + j], want);
    }
  }
}

TEST(logits_match_the_formula) {
  for (int32_t isa = 0; isa <= fth_isa_best(); isa++)
    for (int32_t hidden : {1, 7, 16, 33, 100, 300})
      for (int32_t outputs : {1, 3})
        for (int32_t depths : {1, 3, 10})
          for (float temperature : {1.f, 0.7f}) {
            compare_logits(isa, {hidden, 0, outputs, depths, FTH_ROUTER_LINEAR, FTH_GATE_NONE, temperature, 1, 0, 0},
                           30);
            compare_logits(
                isa, {hidden, 2 * hidden, outputs, depths, FTH_ROUTER_MLP, FTH_GATE_NONE, temperature, 1, 0, 0}, 30);
          }
}

// Rows of logits go through an identity router.
struct Through {
  test::Context ctx;
  Guarded<float> logits, gate;
  Guarded<int32_t> choice;
  fth_gate_shape shape;
  Guarded<char> packed;

  Through(int32_t outputs, int32_t function, float alpha, float threshold, int64_t count)
      : logits(count * outputs), gate(count), choice(count),
        shape{outputs, 0, outputs, 1, FTH_ROUTER_LINEAR, function, 1.f, alpha, threshold, 0},
        packed(Weights::bytes(ctx, shape)) {
    Guarded<float> identity(outputs * outputs);
    for (int32_t j = 0; j < outputs; j++) identity[j * outputs + j] = 1;
    EXPECT_OK(ctx, fth_gate_pack(ctx, &shape, 0, 0, FTH_F32, identity, packed));
  }
  void run(const float* x, const float* bias = nullptr) {
    EXPECT_OK(ctx, fth_gate(ctx, &shape, choice.size(), nullptr, x, packed, bias, logits, gate, choice));
  }
};

static double apply(int32_t function, double z) {
  return function == FTH_GATE_SIGMOID   ? 1 / (1 + exp(-z))
         : function == FTH_GATE_TANH    ? tanh(z)
         : function == FTH_GATE_SOFTMAX ? 1
                                        : z;
}

TEST(one_output_compares_with_the_threshold) {
  const float z[] = {-200.f, -1.5f, -0.f, 0.f, 1e-8f, 0.5f, 0.50001f, 3.f, 200.f, NAN};
  for (int32_t function = FTH_GATE_NONE; function <= FTH_GATE_SOFTMAX; function++)
    for (float threshold : {0.f, 0.5f, INFINITY, -INFINITY}) {
      Through t(1, function, 0.1f, threshold, 10);
      t.run(z);
      for (int i = 0; i < 9; i++) {
        EXPECT(t.choice[i] == (z[i] >= threshold), "z %g threshold %g", z[i], threshold);
        const double want = 0.1f * apply(function, z[i]);
        EXPECT(fabs(t.gate[i] - want) <= 8 * kUlp * fabs(want) + 1e-38, "function %d z %g: %g", function, z[i],
               t.gate[i]);
      }
      EXPECT(t.choice[9] == 0, "NaN is not above a threshold");
    }
}

TEST(several_outputs_choose_the_largest) {
  const float z[] = {1, 2, 3,  3, 1, 2,  2, 2, 1,  1, 2, 2,  0, 0, 0,  -90, 100, 99};
  const int32_t want[] = {2, 0, 0, 1, 0, 1};
  for (int32_t function : {FTH_GATE_NONE, FTH_GATE_SOFTMAX}) {
    Through t(3, function, 1.f, 0, 6);
    t.run(z);
    for (int i = 0; i < 6; i++) {
      EXPECT(t.choice[i] == want[i], "row %d chose %d", i, t.choice[i]);
      double sum = 0;
      for (int j = 0; j < 3; j++) sum += exp(double(z[3 * i + j]) - z[3 * i + want[i]]);
      const double gate = function == FTH_GATE_SOFTMAX ? 1 / sum : z[3 * i + want[i]];
      EXPECT(fabs(t.gate[i] - gate) <= 8 * kUlp * fabs(gate), "row %d: %g, want %g", i, t.gate[i], gate);
    }
  }
}

TEST(bias_moves_the_choice_but_not_the_gate) {
  const float z[] = {1, 0, 0.5f}, bias[] = {0, 0.9f, 0};
  Through t(3, FTH_GATE_SIGMOID, 0.1f, 0, 1);
  t.run(z, bias);
  EXPECT(t.choice[0] == 1);
  EXPECT(t.gate[0] == 0.05f, "%g", t.gate[0]);
}

TEST(not_a_number_chooses_the_first) {
  const float z[] = {NAN, 5, 1,  1, NAN, 5,  1, 5, NAN,  INFINITY, 1, 2,  -INFINITY, -INFINITY, -INFINITY};
  for (int32_t function = FTH_GATE_NONE; function <= FTH_GATE_SOFTMAX; function++) {
    Guarded<float> x(1), w(3), bias(3);
    // An identity would spread NaN and infinity; one column does not: z = w * 1.
    for (int row = 0; row < 5; row++) {
      test::Context ctx;
      const fth_gate_shape shape{1, 0, 3, 1, FTH_ROUTER_LINEAR, function, 1.f, 1.f, 0, 0};
      Guarded<char> packed(Weights::bytes(ctx, shape));
      Guarded<float> gate(1);
      Guarded<int32_t> choice(1);
      x[0] = 1;
      w.copy_from(z + 3 * row);
      EXPECT_OK(ctx, fth_gate_pack(ctx, &shape, 0, 0, FTH_F32, w, packed));
      EXPECT_OK(ctx, fth_gate(ctx, &shape, 1, nullptr, x, packed, nullptr, nullptr, gate, choice));
      EXPECT(choice[0] == 0, "function %d row %d chose %d", function, row, choice[0]);
    }
  }
}

TEST(bits_do_not_depend_on_workers_company_or_order) {
  for (int32_t isa = 0; isa <= fth_isa_best(); isa++)
    for (int32_t router : {FTH_ROUTER_LINEAR, FTH_ROUTER_MLP}) {
      const int64_t count = 1100, hidden = 70;  // more than one slab
      const fth_gate_shape s{70, router == FTH_ROUTER_MLP ? 140 : 0, 2, 3, router, FTH_GATE_SOFTMAX, 0.9f, 1, 0, 0};
      test::Context single(isa, 1), several(isa, 4);
      test::Random random(9);
      const Weights w(single, s, random);
      Guarded<float> x(count * hidden), reversed(count * hidden), one(2 * count), many(2 * count), other(2 * count),
          gate(count);
      Guarded<int32_t> choice(count);
      Guarded<fth_row> rows(count), reversed_rows(count);
      random.fill(x, x.size());
      for (int64_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].depth = int32_t(random.below(3)); }
      for (int64_t i = 0; i < count; i++) {
        memcpy(reversed + i * hidden, x + (count - 1 - i) * hidden, sizeof(float) * hidden);
        reversed_rows[i] = rows[count - 1 - i];
      }
      EXPECT_OK(single, fth_gate(single, &s, count, rows, x, w.packed, nullptr, one, gate, choice));
      EXPECT_OK(several, fth_gate(several, &s, count, rows, x, w.packed, nullptr, many, gate, choice));
      EXPECT_OK(several, fth_gate(several, &s, count, reversed_rows, reversed, w.packed, nullptr, other, gate, choice));
      EXPECT(memcmp(one, many, sizeof(float) * 2 * count) == 0, "workers");
      for (int64_t i = 0; i < count; i++)
        EXPECT(memcmp(one + 2 * i, other + 2 * (count - 1 - i), 2 * sizeof(float)) == 0, "isa %d router %d row %d", isa,
               router, int(i));
      EXPECT_OK(single, fth_gate(single, &s, 1, rows + 500, x + 500 * hidden, w.packed, nullptr, other, gate, choice));
      EXPECT(memcmp(one + 1000, other, 2 * sizeof(float)) == 0, "alone");
    }
}

TEST(refuses_bad_arguments) {
  test::Context ctx;
  const fth_gate_shape good{4, 0, 2, 2, FTH_ROUTER_LINEAR, FTH_GATE_SIGMOID, 1.f, 0.1f, 0, 0};
  Guarded<char> packed(Weights::bytes(ctx, good));
  Guarded<float> x(8), gate(2), logits(4);
  Guarded<int32_t> choice(2);
  Guarded<fth_row> rows(2);
  rows[0] = rows[1] = test::row();
  const auto call = [&](const fth_gate_shape& s) {
    return fth_gate(ctx, &s, 2, rows, x, packed, nullptr, logits, gate, choice);
  };
  EXPECT_OK(ctx, call(good));
  fth_gate_shape s = good;
  s.threshold = NAN;
  EXPECT_REFUSED(ctx, "shape.threshold", call(s));
  s = good; s.temperature = 0;
  EXPECT_REFUSED(ctx, "shape.temperature", call(s));
  s = good; s.temperature = NAN;
  EXPECT_REFUSED(ctx, "shape.temperature", call(s));
  s = good; s.alpha = INFINITY;
  EXPECT_REFUSED(ctx, "shape.alpha", call(s));
  s = good; s.function = 4;
  EXPECT_REFUSED(ctx, "shape.function", call(s));
  s = good; s.router = 2;
  EXPECT_REFUSED(ctx, "shape.router", call(s));
  s = good; s.inner_size = 8;
  EXPECT_REFUSED(ctx, "shape.inner_size", call(s));
  s = good; s.router = FTH_ROUTER_MLP;
  EXPECT_REFUSED(ctx, "shape.inner_size", call(s));
  s = good; s.outputs = 0;
  EXPECT_REFUSED(ctx, "shape.outputs", call(s));
  s = good; s.depths = 0;
  EXPECT_REFUSED(ctx, "shape.depths", call(s));
  s = good; s.hidden_size = -4;
  EXPECT_REFUSED(ctx, "shape.hidden_size", call(s));
  rows[1].depth = 2;
  EXPECT_REFUSED(ctx, "rows[1].depth must be in 0..1, got 2", call(good));
  rows[1].depth = 0;
  EXPECT_REFUSED(ctx, "shape must not be null",
                 fth_gate(ctx, nullptr, 2, rows, x, packed, nullptr, nullptr, gate, choice));
  EXPECT_REFUSED(ctx, "rows must not be null",
                 fth_gate(ctx, &good, 2, nullptr, x, packed, nullptr, nullptr, gate, choice));
  EXPECT_REFUSED(ctx, "x must not be null",
                 fth_gate(ctx, &good, 2, rows, nullptr, packed, nullptr, nullptr, gate, choice));
  EXPECT_REFUSED(ctx, "packed must not be null",
                 fth_gate(ctx, &good, 2, rows, x, nullptr, nullptr, nullptr, gate, choice));
  EXPECT_REFUSED(ctx, "gate must not be null",
                 fth_gate(ctx, &good, 2, rows, x, packed, nullptr, nullptr, nullptr, choice));
  EXPECT_REFUSED(ctx, "choice must not be null",
                 fth_gate(ctx, &good, 2, rows, x, packed, nullptr, nullptr, gate, nullptr));
  EXPECT_REFUSED(ctx, "x and logits must not overlap",
                 fth_gate(ctx, &good, 2, rows, x, packed, nullptr, x, gate, choice));
  EXPECT_REFUSED(ctx, "logits and gate must not overlap",
                 fth_gate(ctx, &good, 2, rows, x, packed, nullptr, logits, logits, choice));
  EXPECT_REFUSED(ctx, "count", fth_gate(ctx, &good, -1, rows, x, packed, nullptr, logits, gate, choice));
  EXPECT_REFUSED(ctx, "depth must be in 0..1, got 2", fth_gate_pack(ctx, &good, 2, 0, FTH_F32, x, packed));
  EXPECT_REFUSED(ctx, "part must be in 0..0, got 1", fth_gate_pack(ctx, &good, 0, 1, FTH_F32, x, packed));
  EXPECT_REFUSED(ctx, "source_type", fth_gate_pack(ctx, &good, 0, 0, 3, x, packed));
  EXPECT_REFUSED(ctx, "source must not be null", fth_gate_pack(ctx, &good, 0, 0, FTH_F32, nullptr, packed));
  int64_t bytes = 0;
  EXPECT_REFUSED(ctx, "shape.hidden_size", fth_gate_bytes(ctx, &s, &bytes));
  EXPECT_REFUSED(ctx, "bytes must not be null", fth_gate_bytes(ctx, &good, nullptr));
}
