// Routers and exit heads: logits against double, decisions against crafted logits (an identity matrix passes x
// through), the refusals.
#include "arguments.h"

using test::Guarded;

static constexpr double kUlp = 6e-8;  // half an ulp of 1

static fth_gate_shape linear_shape(int32_t hidden, int32_t outputs, int32_t depths, int32_t function = FTH_GATE_NONE) {
  return {hidden, 0, outputs, depths, FTH_ROUTER_LINEAR, function, 1.f, 1.f, 0, FTH_IDENTITY, 0};
}
static fth_gate_shape mlp_shape(int32_t hidden, int32_t inner, int32_t outputs, int32_t depths,
                                int32_t function = FTH_GATE_NONE) {
  return {hidden, inner, outputs, depths, FTH_ROUTER_MLP, function, 1.f, 1.f, 0, FTH_GELU, 0};
}

static double activate(int32_t activation, double z) {
  switch (activation) {
    case FTH_RELU: return z > 0 ? z : 0;
    case FTH_GELU: return 0.5 * z * erfc(-z * M_SQRT1_2);
    case FTH_GELU_TANH: return 0.5 * z * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
    case FTH_SILU: return z / (1 + exp(-z));
    default: return z;
  }
}

// sum of w[j] * x[j] and of the magnitudes, in double, from the bias b (null: 0) on.
struct Sum { double value, magnitude; };
template <class X>
static Sum dot(const float* w, const X* x, int64_t n, double scale, const float* b) {
  Sum s{0, 0};
  for (int64_t k = 0; k < n; k++) {
    s.value += double(w[k]) * double(x[k]) * scale;
    s.magnitude += fabs(double(w[k]) * double(x[k]) * scale);
  }
  if (b != nullptr) { s.value += *b; s.magnitude += fabs(*b); }
  return s;
}

struct Weights {
  fth_gate_shape s;
  Guarded<float> w1, b1, w2, b2;  // [depths, out, in], [depths, out]; of layer 2 for an MLP only
  Guarded<char> packed;

  static int64_t bytes(fth_context* ctx, const fth_gate_shape& s) {
    int64_t n = 0;
    fth_gate_bytes(ctx, &s, &n);
    return n;
  }
  bool mlp() const { return s.router == FTH_ROUTER_MLP; }
  int64_t out1() const { return mlp() ? s.inner_size : s.outputs; }
  int64_t out2() const { return mlp() ? s.outputs : 0; }
  Weights(test::Context& ctx, const fth_gate_shape& shape, test::Random& random)
      : s(shape),
        w1(s.depths * out1() * s.hidden_size),
        b1(s.depths * out1() * s.bias),
        w2(s.depths * out2() * s.inner_size),
        b2(s.depths * out2() * s.bias),
        packed(bytes(ctx, s)) {
    random.fill(w1, w1.size(), 0.3f);
    random.fill(b1, b1.size());
    random.fill(w2, w2.size(), 0.3f);
    random.fill(b2, b2.size());
    const Guarded<float>* const parts[] = {&w1, &b1, &w2, &b2};
    for (int32_t d = 0; d < s.depths; d++)
      for (int32_t part = FTH_GATE_W1; part <= FTH_GATE_B2; part++) {
        const Guarded<float>& source = *parts[part];
        if (source.size() == 0) continue;
        EXPECT_OK(ctx, fth_gate_pack(ctx, &s, d, part, FTH_F32, source + d * (source.size() / s.depths), packed));
      }
  }
  // Row j of a layer's weights and its bias, or null.
  const float* row1(int64_t d, int64_t j) const { return w1 + (d * out1() + j) * s.hidden_size; }
  const float* row2(int64_t d, int64_t j) const { return w2 + (d * out2() + j) * s.inner_size; }
  const float* bias1(int64_t d, int64_t j) const { return s.bias ? b1 + d * out1() + j : nullptr; }
  const float* bias2(int64_t d, int64_t j) const { return s.bias ? b2 + d * out2() + j : nullptr; }
};

static void compare_logits(int32_t isa, const fth_gate_shape& s, int64_t count) {
  test::Context ctx(isa, 2);
  test::Random random(uint64_t(s.hidden_size * 7 + s.outputs + count));
  const Weights w(ctx, s, random);
  const int64_t hidden = s.hidden_size, inner = s.inner_size;
  Guarded<float> x(count * hidden), logits(count * s.outputs), p(count * s.outputs), gate(count);
  Guarded<int32_t> choice(count);
  Guarded<fth_row> rows(count);
  Guarded<double> g(inner);
  random.fill(x, x.size(), 2.f);
  for (int64_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].depth = int32_t(random.below(s.depths)); }
  EXPECT_OK(ctx, fth_gate(ctx, &s, count, s.depths == 1 ? nullptr : rows.get(), x, w.packed, nullptr, logits, p, gate,
                          choice));
  for (int64_t i = 0; i < count; i++) {
    const float* row = x + i * hidden;
    const int64_t d = rows[i].depth;
    const double scale = 1 / double(s.temperature);
    // A sum of n products errs by at most (n + 1) half ulps of the sum of magnitudes; temperature and bias by one each.
    double carried = 0;  // error that W2 carries on from the inner layer, per |w2|
    for (int64_t j = 0; j < inner; j++) {
      const Sum z = dot(w.row1(d, j), row, hidden, scale, w.bias1(d, j));
      g[j] = activate(s.activation, z.value);
      // The slope of any activation is at most 1.13; it is itself good to 8 half ulps of its argument or of 1.
      const double error = (1.13 * double(hidden + 3) * z.magnitude + 8 * fmax(1, fabs(z.value))) * kUlp;
      if (error > carried) carried = error;
    }
    for (int64_t j = 0; j < s.outputs; j++) {
      const bool mlp = w.mlp();
      const Sum z = mlp ? dot(w.row2(d, j), g.get(), inner, 1, w.bias2(d, j))
                        : dot(w.row1(d, j), row, hidden, scale, w.bias1(d, j));
      double weights = 0;
      for (int64_t k = 0; k < inner; k++) weights += fabs(w.row2(d, j)[k]);
      const double bound = kUlp * double((mlp ? inner : hidden) + 3) * z.magnitude + weights * carried + 1e-30;
      EXPECT(fabs(logits[i * s.outputs + j] - z.value) <= bound, "isa %d router %d inner %d: %g, want %g", isa,
             s.router, int(inner), logits[i * s.outputs + j], z.value);
      EXPECT(p[i * s.outputs + j] == s.alpha * logits[i * s.outputs + j]);
    }
  }
}

// Emulated devices are slow.
static const std::vector<int32_t> kHidden =
    test::kCuda ? std::vector<int32_t>{1, 16, 300} : std::vector<int32_t>{1, 7, 8, 12, 16, 33, 100, 300};

TEST(logits_match_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t hidden : kHidden)
      for (int32_t outputs : {1, 3})
        for (int32_t depths : {1, 3, 10})
          for (int options = 0; options < 4; options++) {
            fth_gate_shape s = linear_shape(hidden, outputs, depths);
            s.temperature = options & 1 ? 0.7f : 1.f;
            s.bias = options >> 1;
            compare_logits(isa, s, 12);
            s.router = FTH_ROUTER_MLP;
            s.inner_size = 2 * hidden;
            s.activation = (hidden + depths + options) % (FTH_SILU + 1);
            compare_logits(isa, s, 12);
          }
}

TEST(wide_heads_match_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    fth_gate_shape s = linear_shape(16384, 2, 1);
    s.bias = 1;
    compare_logits(isa, s, 3);
    s = mlp_shape(1000, 4001, 2, 1);
    s.activation = FTH_RELU;
    s.bias = 1;
    compare_logits(isa, s, 5);
  }
}

// Candidates' rows of a packed LM head, four for each row of x, are that row's router.
TEST(gathered_rows_are_routers) {
  const int32_t hidden = 20, vocab = 131, candidates = 4, count = 5;
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa, 2);
    test::Random random(7);
    Guarded<float> head(vocab * hidden), x(count * hidden);
    random.fill(head, head.size());
    random.fill(x, x.size());
    const fth_linear_shape packing{hidden, vocab, FTH_F32, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
    int64_t bytes = 0;
    EXPECT_OK(ctx, fth_linear_bytes(ctx, &packing, &bytes));
    Guarded<char> packed(bytes);
    EXPECT_OK(ctx, fth_linear_pack(ctx, &packing, 0, vocab, FTH_F32, head, packed));

    const fth_gate_shape shape = linear_shape(hidden, candidates, count, FTH_GATE_SOFTMAX);
    EXPECT(Weights::bytes(ctx, shape) == int64_t(count) * candidates * hidden * 4);
    Guarded<int32_t> id(count * candidates), choice(count);
    Guarded<float> gathered(count * candidates * hidden), logits(count * candidates), gate(count);
    Guarded<fth_row> rows(count);
    for (int64_t i = 0; i < id.size(); i++) id[i] = int32_t(random.below(vocab));
    for (int32_t i = 0; i < count; i++) { rows[i] = test::row(); rows[i].depth = i; }
    const fth_embed_shape embed{vocab, hidden, FTH_F32, 1, 1.f, 0};
    EXPECT_OK(ctx, fth_embed(ctx, &embed, id.size(), id, packed, gathered));
    EXPECT_OK(ctx, fth_gate(ctx, &shape, count, rows, x, gathered, nullptr, logits, nullptr, gate, choice));
    for (int64_t c = 0; c < id.size(); c++) {
      const Sum z = dot(head + int64_t(id[c]) * hidden, x + c / candidates * hidden, hidden, 1, nullptr);
      EXPECT(fabs(logits[c] - z.value) <= kUlp * (hidden + 2) * z.magnitude, "candidate %d", int(c));
    }
  }
}

// Rows of logits go through an identity router.
struct Through {
  test::Context ctx;
  Guarded<float> logits, p, gate;
  Guarded<int32_t> choice;
  fth_gate_shape shape;
  Guarded<char> packed;

  Through(int32_t outputs, int32_t function, float alpha, float threshold, int64_t count)
      : logits(count * outputs), p(count * outputs), gate(count), choice(count),
        shape(linear_shape(outputs, outputs, 1, function)),
        packed(Weights::bytes(ctx, shape)) {
    shape.alpha = alpha;
    shape.threshold = threshold;
    Guarded<float> identity(outputs * outputs);
    for (int32_t j = 0; j < outputs; j++) identity[j * outputs + j] = 1;
    EXPECT_OK(ctx, fth_gate_pack(ctx, &shape, 0, FTH_GATE_W1, FTH_F32, identity, packed));
  }
  void run(const float* x, const float* bias = nullptr) {
    EXPECT_OK(ctx, fth_gate(ctx, &shape, choice.size(), nullptr, x, packed, bias, logits, p, gate, choice));
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
        EXPECT(t.p[i] == t.gate[i]);
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
      EXPECT(t.p[3 * i + want[i]] == t.gate[i]);
    }
  }
}

// A head of two classes: p_1 is the probability of the second, whichever is chosen.
TEST(two_classes_have_probabilities) {
  const float z[] = {0, 0,  1, 3,  3, 1,  -200, 200,  200, -200,  5, 5.5f};
  Through t(2, FTH_GATE_SOFTMAX, 1.f, 0, 6);
  t.run(z);
  for (int i = 0; i < 6; i++) {
    const double want = 1 / (1 + exp(double(z[2 * i]) - double(z[2 * i + 1])));
    EXPECT(fabs(t.p[2 * i + 1] - want) <= 8 * kUlp * want + 1e-38, "row %d: %g, want %g", i, t.p[2 * i + 1], want);
    EXPECT(fabs(t.p[2 * i] + t.p[2 * i + 1] - 1) <= 4 * kUlp);
    EXPECT(t.choice[i] == (z[2 * i + 1] > z[2 * i]));
  }
}

TEST(bias_moves_the_choice_but_not_the_gate) {
  const float z[] = {1, 0, 0.5f}, bias[] = {0, 0.9f, 0};
  Through t(3, FTH_GATE_SIGMOID, 0.1f, 0, 1);
  t.run(z, bias);
  EXPECT(t.choice[0] == 1);
  EXPECT(t.gate[0] == 0.05f && t.p[1] == 0.05f, "%g", t.gate[0]);
}

TEST(not_a_number_chooses_the_first) {
  const float z[] = {NAN, 5, 1,  1, NAN, 5,  1, 5, NAN,  INFINITY, 1, 2,  -INFINITY, -INFINITY, -INFINITY};
  for (int32_t function = FTH_GATE_NONE; function <= FTH_GATE_SOFTMAX; function++) {
    Guarded<float> x(1), w(3), bias(3);
    // An identity would spread NaN and infinity; one column does not: z = w * 1.
    for (int row = 0; row < 5; row++) {
      test::Context ctx;
      const fth_gate_shape shape = linear_shape(1, 3, 1, function);
      Guarded<char> packed(Weights::bytes(ctx, shape));
      Guarded<float> gate(1);
      Guarded<int32_t> choice(1);
      x[0] = 1;
      w.copy_from(z + 3 * row);
      EXPECT_OK(ctx, fth_gate_pack(ctx, &shape, 0, FTH_GATE_W1, FTH_F32, w, packed));
      EXPECT_OK(ctx, fth_gate(ctx, &shape, 1, nullptr, x, packed, nullptr, nullptr, nullptr, gate, choice));
      EXPECT(choice[0] == 0, "function %d row %d chose %d", function, row, choice[0]);
    }
  }
}

TEST(bits_do_not_depend_on_workers_company_or_order) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t router : {FTH_ROUTER_LINEAR, FTH_ROUTER_MLP}) {
      const int64_t count = 1100, hidden = 70;  // more than one slab
      fth_gate_shape s = router == FTH_ROUTER_MLP ? mlp_shape(70, 140, 2, 3) : linear_shape(70, 2, 3);
      s.function = FTH_GATE_SOFTMAX;
      s.temperature = 0.9f;
      s.bias = 1;
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
      EXPECT_OK(single, fth_gate(single, &s, count, rows, x, w.packed, nullptr, one, nullptr, gate, choice));
      EXPECT_OK(several, fth_gate(several, &s, count, rows, x, w.packed, nullptr, many, nullptr, gate, choice));
      EXPECT_OK(several, fth_gate(several, &s, count, reversed_rows, reversed, w.packed, nullptr, other, nullptr, gate,
                                  choice));
      EXPECT(memcmp(one, many, sizeof(float) * 2 * count) == 0, "workers");
      for (int64_t i = 0; i < count; i++)
        EXPECT(memcmp(one + 2 * i, other + 2 * (count - 1 - i), 2 * sizeof(float)) == 0, "isa %d router %d row %d", isa,
               router, int(i));
      EXPECT_OK(single, fth_gate(single, &s, 1, rows + 500, x + 500 * hidden, w.packed, nullptr, other, nullptr, gate,
                                 choice));
      EXPECT(memcmp(one + 1000, other, 2 * sizeof(float)) == 0, "alone");
    }
}

static void refuses_shapes(test::Arguments& a, fth_gate_shape* s) {
  const bool mlp = s->router == FTH_ROUTER_MLP;
  a.range("shape.router", s->router, 0, 1);
  a.range("shape.hidden_size", s->hidden_size, 1, 1 << 24);
  a.range("shape.inner_size", s->inner_size, mlp, mlp ? 1 << 24 : 0);
  a.range("shape.outputs", s->outputs, 1, 4096);
  a.range("shape.depths", s->depths, 1, 4096);
  a.range("shape.function", s->function, 0, 3);
  for (float bad : {0.f, -1.f, NAN, INFINITY})
    a.refused("shape.temperature must be a finite number > 0, got", s->temperature, bad);
  a.finite("shape.alpha", s->alpha);
  a.refused("shape.threshold must be a number, got nan", s->threshold, NAN);
  a.range("shape.activation", s->activation, 0, mlp ? 4 : 0);
  a.range("shape.bias", s->bias, 0, 1);
}

TEST(keeps_to_its_arguments) {
  for (int32_t inner : {0, 1, 19})
    for (int32_t hidden : {1, 7, 16, 35})
      for (int32_t outputs : {1, 3}) {
        fth_gate_shape s = inner ? mlp_shape(hidden, inner, outputs, 2) : linear_shape(hidden, outputs, 2);
        s.bias = 1;
        s.temperature = 0.7f;
        s.function = outputs == 1 ? FTH_GATE_SIGMOID : FTH_GATE_SOFTMAX;
        int64_t count = 3;
        test::Arguments size, pack, run;
        const auto size_shape = size.shape(s);
        const auto bytes = size.output<int64_t>("bytes", 1);
        size.call = [&](fth_context* ctx) { return fth_gate_bytes(ctx, size_shape, bytes); };
        EXPECT_OK(size.ctx, size.call(size.ctx));
        const int64_t packed_bytes = bytes[0], alignment = test::kCuda && inner ? 16 : 4;

        int32_t depth = 1, part = FTH_GATE_W1, type = FTH_F16;
        const auto pack_shape = pack.shape(s);
        const auto source = pack.packed("source", int64_t(inner ? inner : outputs) * hidden * 2, 2);
        const auto target = pack.packed_output("packed", packed_bytes, alignment);
        pack.call = [&](fth_context* ctx) { return fth_gate_pack(ctx, pack_shape, depth, part, type, source, target); };
        pack.guards();

        const auto shape = run.shape(s);
        const auto rows = run.input<fth_row>("rows", count);
        const auto x = run.input<float>("x", count * hidden);
        const auto packed = run.packed("packed", packed_bytes, alignment);
        const auto choice_bias = run.optional<float>("choice_bias", outputs);
        const auto logits = run.optional_output<float>("logits", count * outputs);
        const auto p = run.optional_output<float>("p", count * outputs);
        const auto gate = run.output<float>("gate", count);
        const auto choice = run.output<int32_t>("choice", count);
        for (int32_t i = 0; i < count; i++) {
          rows[i] = test::row();
          rows[i].depth = i % 2;
        }
        run.random.fill(x, x.size());
        run.random.fill(choice_bias, outputs);
        run.call = [&](fth_context* ctx) {
          return fth_gate(ctx, shape, count, rows, x, packed, choice_bias, logits, p, gate, choice);
        };
        run.guards();
        if (hidden != 7 || outputs != 3 || inner == 1) continue;
        size.refusals();
        refuses_shapes(size, size_shape);
        pack.refusals();
        refuses_shapes(pack, pack_shape);
        pack.range("depth", depth, 0, 1);
        pack.range("part", part, 0, inner ? FTH_GATE_B2 : FTH_GATE_B1);
        pack.range("source_type", type, 0, 2);
        pack_shape->bias = 0;
        pack.refused("part must be a weight when shape.bias is 0, got 1", part, FTH_GATE_B1);
        if (inner) pack.refused("part must be a weight when shape.bias is 0, got 3", part, FTH_GATE_B2);
        run.refusals();
        refuses_shapes(run, shape);
        run.nothing(count);
        run.counts(count);
        run.range("rows[1].depth", rows[1].depth, 0, 1);
        shape->depths = 1;  // then it selects nothing
        rows[1].depth = 9;
        EXPECT_OK(run.ctx, run.call(run.ctx));
      }
}

// The parts of a router that are not first in its buffer.
TEST(packing_stays_inside_its_buffers) {
  for (int32_t part = FTH_GATE_W1; part <= FTH_GATE_B2; part++) {
    fth_gate_shape s = mlp_shape(7, 19, 3, 2);
    s.bias = 1;
    const int64_t sizes[] = {7 * 19, 19, 19 * 3, 3};
    for (int32_t type : {FTH_F32, FTH_BF16}) {
      test::Arguments a;
      const int64_t element = type == FTH_F32 ? 4 : 2;
      const auto shape = a.shape(s);
      const auto source = a.packed("source", sizes[part] * element, element);
      const auto packed = a.packed_output("packed", Weights::bytes(a.ctx, s), test::kStored);
      a.call = [&](fth_context* ctx) { return fth_gate_pack(ctx, shape, 1, part, type, source, packed); };
      a.guards();
      a.refusals();
    }
  }
}
