// Head statistics. Crafted logits go through a hidden size of 1 (logit = weight * 1), so that every special value can
// be placed; products are compared with norm and linear, which have tests of their own.
#include "arguments.h"
#include "storage.h"

using test::Guarded;

static constexpr double kUlp = 6e-8;  // half an ulp of 1

struct Expected { int32_t argmax, second; double lse, entropy; };

static Expected statistics(const float* z, int64_t n) {
  Expected e{0, -1, 0, 0};
  for (int64_t j = 1; j < n; j++) if (z[j] > z[e.argmax]) e.argmax = int32_t(j);
  for (int64_t j = 0; j < n; j++) if (j != e.argmax && (e.second < 0 || z[j] > z[e.second])) e.second = int32_t(j);
  const double m = z[e.argmax];
  double sum = 0, slope = 0;
  for (int64_t j = 0; j < n; j++) {
    const double d = z[j] == m ? 0 : z[j] - m;
    sum += exp(d);
    if (exp(d) > 0) slope += d * exp(d);
  }
  e.lse = m + log(sum);
  e.entropy = log(sum) - slope / sum;
  return e;
}

static void expect_stats(const fth_head_stats& got, const float* z, int64_t n, const char* what) {
  const Expected want = statistics(z, n);
  EXPECT(got.argmax == want.argmax && got.second == want.second, "%s, %d logits: %d %d, want %d %d", what, int(n),
         got.argmax, got.second, want.argmax, want.second);
  EXPECT(got.top1 == z[want.argmax], "%s: %g", what, got.top1);
  EXPECT(got.top2 == (n == 1 ? -INFINITY : z[want.second]), "%s: %g", what, got.top2);
  // A chunk's sums have 512 terms, each with an exponential good to 4 half ulps; log and merging add a few. The sums'
  // relative error is an absolute one of the logarithm.
  const double sums = kUlp * 530;
  EXPECT(isinf(want.lse) ? got.lse == want.lse : fabs(got.lse - want.lse) <= sums + 2 * kUlp * fabs(want.lse),
         "%s, %d logits: lse %.9g, want %.9g", what, int(n), got.lse, want.lse);
  EXPECT(fabs(got.entropy - want.entropy) <= 2 * sums * (1 + want.entropy), "%s, %d logits: entropy %.9g, want %.9g",
         what, int(n), got.entropy, want.entropy);
}

struct Packed {
  Guarded<char> data;

  static int64_t bytes(test::Context& ctx, const fth_linear_shape& shape) {
    int64_t n = 0;
    EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &n));
    return n;
  }
  static fth_linear_shape linear(int32_t hidden, int32_t vocab, int32_t type) {
    return {hidden, vocab, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
  }
  Packed(test::Context& ctx, int32_t hidden, int32_t vocab, int32_t type, const float* w)
      : data(bytes(ctx, linear(hidden, vocab, type))) {
    const fth_linear_shape shape = linear(hidden, vocab, type);
    EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, vocab, FTH_F32, w, data));
  }
  operator const void*() const { return data.get(); }
};

static fth_head_stats through(int32_t isa, const float* z, int32_t n, float softcap = 0, float* logits = nullptr) {
  test::Context ctx(isa, 2);
  const Packed packed(ctx, 1, n, FTH_F32, z);
  Guarded<float> one(1);
  Guarded<fth_head_stats> stats(1);
  one[0] = 1;
  const fth_head_shape shape{1, n, FTH_F32, -1, 0, 1, softcap, 0};
  EXPECT_OK(ctx, fth_head(ctx, &shape, 1, one, nullptr, nullptr, packed, nullptr, stats, nullptr, logits));
  const fth_head_stats got = stats[0];
  return got;
}

static const int32_t kSizes[] = {1, 2, 3, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1024, 1500};

TEST(statistics_match_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t n : kSizes)
      for (float magnitude : {0.f, 1.f, 30.f, 1e4f, 1e38f}) {
        Guarded<float> z(n);
        test::Random random{uint64_t(n)};
        random.fill(z, n, magnitude);
        expect_stats(through(isa, z, n), z, n, "random");
        for (int64_t j = 0; j < n; j++) z[j] = roundf(3 * random.uniform());
        expect_stats(through(isa, z, n), z, n, "ties");
      }
}

TEST(infinite_logits_make_no_nan) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t n : kSizes) {
      Guarded<float> z(n);
      test::Random random{uint64_t(n)};
      const auto fill = [&](float value) { for (int64_t j = 0; j < n; j++) z[j] = value; };
      fill(-INFINITY);
      expect_stats(through(isa, z, n), z, n, "all -inf");
      z[n / 2] = -3;
      expect_stats(through(isa, z, n), z, n, "one finite");
      random.fill(z, n, 5.f);
      for (int64_t j = 0; j < n; j += 2) z[j] = -INFINITY;
      expect_stats(through(isa, z, n), z, n, "half -inf");
      z[n - 1] = INFINITY;
      expect_stats(through(isa, z, n), z, n, "one +inf");
      fill(INFINITY);
      expect_stats(through(isa, z, n), z, n, "all +inf");
    }
}

TEST(nan_logits_spoil_their_row_only) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t n : {1, 5, 64, 700})
      for (int32_t at : {0, n / 2, n - 1})
        for (float softcap : {0.f, 20.f}) {
          test::Context ctx(isa, 2);
          Guarded<float> w(n * 2), h(4), logits(2 * n);
          for (int64_t j = 0; j < 2 * n; j++) w[j] = 1;
          w[2 * at] = NAN;
          h[0] = 1; h[1] = 2; h[2] = 1; h[3] = 1;
          const Packed packed(ctx, 2, n, FTH_F32, w);
          Guarded<fth_head_stats> stats(2);
          const fth_head_shape shape{2, n, FTH_F32, -1, 0, 1, softcap, 0};
          EXPECT_OK(ctx, fth_head(ctx, &shape, 2, h, nullptr, nullptr, packed, nullptr, stats, nullptr, logits));
          for (int i = 0; i < 2; i++) {
            const fth_head_stats& s = stats[i];
            EXPECT(s.argmax == 0 && s.second == -1 && isnan(s.top1) && isnan(s.top2) && isnan(s.lse) &&
                   isnan(s.entropy));
            EXPECT(isnan(logits[i * n + at]));
          }
          // The weight is good, one row is not.
          w[2 * at] = 1;
          h[1] = NAN;
          const Packed good(ctx, 2, n, FTH_F32, w);
          EXPECT_OK(ctx, fth_head(ctx, &shape, 2, h, nullptr, nullptr, good, nullptr, stats, nullptr, logits));
          EXPECT(isnan(stats[0].lse) && stats[0].argmax == 0);
          if (softcap == 0) expect_stats(stats[1], logits + n, n, "beside a NaN row");
        }
}

TEST(scale_and_softcap_come_before_the_statistics) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (float softcap : {0.f, 5.f, 30.f})
      for (float scale : {1.f, 0.125f, -2.f}) {
        const int32_t n = 600;
        test::Context ctx(isa, 1);
        Guarded<float> w(n), one(1), logits(n);
        test::Random random(4);
        random.fill(w, n, 40.f);
        w[17] = 1e30f;
        w[18] = -1e30f;
        one[0] = 1;
        const Packed packed(ctx, 1, n, FTH_F32, w);
        Guarded<fth_head_stats> stats(1);
        const fth_head_shape shape{1, n, FTH_F32, -1, 0, scale, softcap, 0};
        EXPECT_OK(ctx, fth_head(ctx, &shape, 1, one, nullptr, nullptr, packed, nullptr, stats, nullptr, logits));
        expect_stats(stats[0], logits, n, "capped");
        for (int64_t j = 0; j < n; j++) {
          const double z = double(scale) * w[j], want = softcap > 0 ? softcap * tanh(z / softcap) : z;
          // tanh = 1 - 2 / (exp + 1): a few half ulps of 1, times the cap.
          const double bound = softcap > 0 ? 8 * kUlp * softcap : kUlp * fabs(want);
          EXPECT(fabs(logits[j] - want) <= bound, "isa %d cap %g: %g, want %g", isa, softcap, logits[j], want);
        }
      }
}

struct Model {
  test::Context ctx;
  Guarded<float> w, h, gain, bias;
  fth_head_shape shape;
  Packed packed;

  Model(int32_t isa, int workers, int32_t hidden, int32_t vocab, int32_t type, int32_t norm, int64_t count,
        int32_t chosen)
      : ctx(isa, workers),
        w(int64_t(hidden) * vocab),
        h(count * hidden),
        gain(hidden),
        bias(hidden),
        shape{hidden, vocab, type, norm, 1e-5f, 1, 0, chosen},
        packed(ctx, hidden, vocab, type, random()) {}
  const float* random() {
    test::Random random(uint64_t(w.size()));
    random.fill(w, w.size(), 0.5f);
    random.fill(h, h.size(), 3.f);
    random.fill(gain, gain.size());
    random.fill(bias, bias.size());
    return w;
  }
};

TEST(logits_are_norm_and_linear_and_need_not_be_stored) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes)
      for (int32_t norm = -1; norm <= FTH_LAYER_NORM; norm++)
        for (int64_t count : {1, 7, test::kCuda ? 20 : 110}) {  // emulation is slow
          const int32_t hidden = 61, vocab = 777, chosen = 3;
          Model m(isa, 2, hidden, vocab, type, norm, count, chosen);
          test::Random random(8);
          Guarded<float> normed(count * hidden), want(count * vocab), logits(count * vocab), picked(count * chosen);
          Guarded<int32_t> id(count * chosen);
          Guarded<fth_head_stats> stats(count), bare(count);
          for (int64_t i = 0; i < id.size(); i++) id[i] = int32_t(random.below(vocab));
          id[0] = vocab - 1;
          const fth_norm_shape norm_shape{norm, hidden, 1, 1e-5f};
          if (norm >= 0) EXPECT_OK(m.ctx, fth_norm(m.ctx, &norm_shape, count, nullptr, m.h, m.gain, m.bias, normed));
          const fth_linear_shape linear{hidden, vocab, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
          EXPECT_OK(m.ctx, fth_linear(m.ctx, &linear, count, nullptr, norm >= 0 ? normed : m.h, m.packed, nullptr,
                                      nullptr, nullptr, nullptr, want));
          EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, m.gain, m.bias, m.packed, id, stats, picked, logits));
          EXPECT(memcmp(logits, want, sizeof(float) * size_t(count * vocab)) == 0, "isa %d type %d norm %d", isa, type,
                 norm);
          for (int64_t i = 0; i < count; i++) {
            expect_stats(stats[i], logits + i * vocab, vocab, "model");
            for (int64_t c = i * chosen; c < (i + 1) * chosen; c++) EXPECT(picked[c] == logits[i * vocab + id[c]]);
          }
          EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, m.gain, m.bias, m.packed, id, bare, picked, nullptr));
          EXPECT(memcmp(stats, bare, sizeof(fth_head_stats) * size_t(count)) == 0);
          for (int64_t c = 0; c < count * chosen; c++) EXPECT(picked[c] == logits[c / chosen * vocab + id[c]]);
        }
}

TEST(chosen_logits_alone_have_the_bits_of_a_whole_pass) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes)
      for (int32_t chosen : {1, 5, 70})  // few of the panels, or so many that the pass is a whole one
        for (int64_t count : {1, 7, 1100}) {
          if (count > 7 && (chosen > 5 || isa == FTH_ISA_SCALAR)) continue;
          const int32_t hidden = chosen == 1 && count == 1 ? 1100 : 61, vocab = 1501;  // the long sum is in splits
          Model m(isa, 2, hidden, vocab, type, FTH_RMS_NORM, count, chosen);
          m.shape.logit_scale = 0.5f;
          m.shape.softcap = 3;
          test::Random random(8);
          Guarded<float> want(count * chosen), got(count * chosen);
          Guarded<int32_t> id(count * chosen);
          Guarded<fth_head_stats> stats(count);
          for (int64_t i = 0; i < id.size(); i++) id[i] = int32_t(random.below(vocab));
          id[0] = vocab - 1;
          EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, m.gain, m.bias, m.packed, id, stats, want, nullptr));
          EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, m.gain, m.bias, m.packed, id, nullptr, got, nullptr));
          EXPECT(memcmp(got, want, sizeof(float) * size_t(count * chosen)) == 0, "isa %d type %d chosen %d", isa, type,
                 chosen);
        }
}

TEST(bits_do_not_depend_on_workers_or_company) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes) {
      const int64_t count = test::kCuda ? 100 : isa == FTH_ISA_SCALAR ? 150 : 1100;  // more than one slab
      const int32_t hidden = 32, vocab = 1100;
      Model one(isa, 1, hidden, vocab, type, FTH_RMS_NORM, count, 0),
          many(isa, 4, hidden, vocab, type, FTH_RMS_NORM, count, 0);
      Guarded<fth_head_stats> a(count), b(count), alone(1);
      EXPECT_OK(one.ctx, fth_head(one.ctx, &one.shape, count, one.h, one.gain, nullptr, one.packed, nullptr, a, nullptr,
                                  nullptr));
      EXPECT_OK(many.ctx, fth_head(many.ctx, &many.shape, count, many.h, many.gain, nullptr, many.packed, nullptr, b,
                                   nullptr, nullptr));
      EXPECT(memcmp(a, b, sizeof(fth_head_stats) * size_t(count)) == 0);
      for (int64_t i : {int64_t(0), int64_t(97), count - 1}) {
        EXPECT_OK(one.ctx, fth_head(one.ctx, &one.shape, 1, one.h + i * hidden, one.gain, nullptr, one.packed, nullptr,
                                    alone, nullptr, nullptr));
        EXPECT(memcmp(alone, a + i, sizeof(fth_head_stats)) == 0, "isa %d row %d", isa, int(i));
      }
    }
}

// A device makes statistics of a product's sums or of logits in memory: the bits are the same, with any tile of rows,
// in the vocabulary's last chunk, with sums in splits, and beside rows that are no numbers.
TEST(kept_logits_do_not_change_the_bits) {
  struct Size { int32_t hidden, vocab; };
  for (int32_t type : kTypes)
    for (const Size& size : {Size{24, 600}, Size{1100, 190}})
      for (int64_t count : {1, 8, 9, 31, 64, 70, 140}) {
        if (size.hidden > 1000 && type != FTH_BF16 && count > 9) continue;
        for (int32_t chosen : {0, 3, 66}) {  // none, few, more than a chunk looks for
          if (chosen != 3 && count != 9) continue;
          Model m(FTH_ISA_AUTO, 2, size.hidden, size.vocab, type, FTH_RMS_NORM, count, chosen);
          m.shape.logit_scale = count % 2 ? 0.7f : 1;
          m.shape.softcap = count > 8 ? 4.f : 0;
          test::Random random{uint64_t(count)};
          Guarded<int32_t> id(count * chosen);
          for (int64_t i = 0; i < id.size(); i++) id[i] = i % 3 == 2 ? id[i - 1] : int32_t(random.below(size.vocab));
          if (chosen > 0) id[0] = size.vocab - 1;
          if (count > 2) m.h[(count - 2) * size.hidden + 7] = NAN;
          if (count > 3) m.h[5] = INFINITY;
          Guarded<float> logits(count * size.vocab), picked(id.size()), want(id.size());
          Guarded<fth_head_stats> kept(count), bare(count);
          const int32_t* ids = chosen > 0 ? id.get() : nullptr;
          EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, m.gain, nullptr, m.packed, ids, kept,
                                    chosen > 0 ? want.get() : nullptr, logits));
          EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, m.gain, nullptr, m.packed, ids, bare,
                                    chosen > 0 ? picked.get() : nullptr, nullptr));
          EXPECT(memcmp(kept, bare, sizeof(fth_head_stats) * size_t(count)) == 0, "type %d, %d rows to %d", type,
                 int(count), size.vocab);
          EXPECT(memcmp(want, picked, sizeof(float) * size_t(id.size())) == 0, "type %d, %d rows, %d chosen", type,
                 int(count), chosen);
        }
      }
}

// So many rows and ids that a device takes a vocabulary whose logits are stored in two pieces.
TEST(pieces_of_the_vocabulary_give_the_same_bits) {
  const int64_t count = 1030;
  const int32_t hidden = 2, vocab = 4170, chosen = 2;
  Model m(FTH_ISA_AUTO, 2, hidden, vocab, FTH_BF16, -1, count, chosen);
  Guarded<int32_t> id(count * chosen);
  Guarded<float> picked(count * chosen), one_picked(chosen), logits(count * vocab), one(vocab);
  Guarded<fth_head_stats> kept(count), stats(count), alone(1);
  for (int64_t i = 0; i < id.size(); i++) id[i] = int32_t(i % 2 ? vocab - 1 - i % 100 : i % vocab);
  EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, nullptr, nullptr, m.packed, id, stats, picked, nullptr));
  EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, count, m.h, nullptr, nullptr, m.packed, id, kept, picked, logits));
  EXPECT(memcmp(kept, stats, sizeof(fth_head_stats) * count) == 0);
  for (int64_t i : {int64_t(0), int64_t(517), int64_t(1023), int64_t(1024), count - 1}) {
    EXPECT_OK(m.ctx, fth_head(m.ctx, &m.shape, 1, m.h + i * hidden, nullptr, nullptr, m.packed, id + i * chosen, alone,
                              one_picked, one));
    expect_stats(stats[i], one, vocab, "in pieces");
    EXPECT(memcmp(alone, stats + i, sizeof(fth_head_stats)) == 0, "row %d", int(i));
    EXPECT(memcmp(one_picked, picked + i * chosen, sizeof(float) * chosen) == 0, "row %d", int(i));
    EXPECT(memcmp(one, logits + i * vocab, sizeof(float) * vocab) == 0, "row %d", int(i));
  }
}

TEST(keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t hidden : {1, 7, 35})
      for (int32_t vocab : {1, 67, 600}) {
        const int32_t chosen = 2, stored = test::kCuda ? 16 : type == FTH_F32 ? 4 : 2;
        int64_t count = 3;
        test::Arguments a;
        const auto shape = a.shape<fth_head_shape>({hidden, vocab, type, FTH_LAYER_NORM, 1e-5f, 0.5f, 20.f, chosen});
        const auto h = a.input<float>("h", count * hidden);
        const auto gain = a.optional<float>("gain", hidden);
        const auto norm_bias = a.optional<float>("norm_bias", hidden);
        const auto packed = a.packed("packed", Packed::bytes(a.ctx, Packed::linear(hidden, vocab, type)), stored);
        const auto id = a.input<int32_t>("chosen_id", count * chosen);
        const auto stats = a.output<fth_head_stats>("stats", count);
        const auto picked = a.output<float>("chosen_logit", count * chosen);
        const auto logits = a.optional_output<float>("logits", count * vocab);
        for (const auto& v : {h, gain, norm_bias}) a.random.fill(v, v.size());
        for (int64_t i = 0; i < id.size(); i++) id[i] = int32_t(i * 31 % vocab);
        a.call = [&](fth_context* ctx) {
          return fth_head(ctx, shape, count, h, gain, norm_bias, packed, id, stats, picked, logits);
        };
        a.guards();
        a.call = [&](fth_context* ctx) {
          return fth_head(ctx, shape, count, h, gain, norm_bias, packed, id, stats, picked, nullptr);
        };
        a.guards();
        a.call = [&](fth_context* ctx) {
          return fth_head(ctx, shape, count, h, gain, norm_bias, packed, id, nullptr, picked, nullptr);
        };
        a.guards();
        if (hidden != 7 || vocab != 67) continue;
        a.call = [&](fth_context* ctx) {
          return fth_head(ctx, shape, count, h, gain, norm_bias, packed, id, stats, picked, logits);
        };
        a.refusals();
        a.nothing(count);
        a.counts(count);
        a.range("shape.hidden_size", shape->hidden_size, 1, 1 << 24);
        a.range("shape.vocab_size", shape->vocab_size, 1, 1 << 24);
        a.weight_type("shape.weight_type", shape->weight_type);
        a.range("shape.norm", shape->norm, -1, 1);
        a.range("shape.chosen", shape->chosen, 0, 65536);
        a.not_negative("shape.norm_eps", shape->norm_eps);
        a.finite("shape.logit_scale", shape->logit_scale);
        a.not_negative("shape.softcap", shape->softcap);
        a.range("chosen_id[3]", id[3], 0, 66);
        shape->chosen = 0;
        EXPECT_OK(a.ctx, fth_head(a.ctx, shape, count, h, gain, norm_bias, packed, nullptr, stats, nullptr, logits));
        EXPECT_REFUSED_AS(a.ctx, "stats must not be null", fth_head(a.ctx, shape, count, h, gain, norm_bias, packed,
                                                                    nullptr, nullptr, nullptr, nullptr));
      }
}
