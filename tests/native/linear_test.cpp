// Linear layers against the formula in double, on every instruction set, with every buffer against a guard page.
#include "linear/linear.h"

#include "arguments.h"
#include "storage.h"
#include "simd/scalar.h"

using test::Guarded;

namespace {

double activate(int32_t activation, double z) {
  switch (activation) {
    case FTH_RELU: return z < 0 ? 0 : z;
    case FTH_GELU: return 0.5 * z * erfc(-z / sqrt(2.0));
    case FTH_GELU_TANH: return 0.5 * z * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
    case FTH_SILU: return z / (1 + exp(-z));
    default: return z;
  }
}

struct Options {
  int32_t in, out, type, activation, glu, residual, rank;
  bool bias;
};

// A linear layer with random contents, packed, and what it should give.
struct Layer {
  static constexpr int32_t kDepths = 3;
  Options o;
  fth_linear_shape shape;
  int64_t w_rows;
  Guarded<float> w, bias, a, b;
  Guarded<double> w_stored;
  Guarded<char>*packed = nullptr, *lora = nullptr;

  Layer(const Options& options, uint64_t seed)
      : o(options),
        shape{o.in, o.out, o.type, o.activation, o.glu, o.residual, o.rank, o.rank ? kDepths : 0},
        w_rows(o.out * (1 + o.glu)),
        w(w_rows * o.in),
        bias(w_rows),
        a(kDepths * o.rank * o.in),
        b(kDepths * w_rows * o.rank),
        w_stored(w_rows * o.in) {
    test::Random random(seed);
    random.fill(w, w.size(), 2.f / sqrtf(float(o.in)));
    random.fill(bias, bias.size());
    random.fill(a, a.size(), 1.f / sqrtf(float(o.in)));
    random.fill(b, b.size());
    for (int64_t j = 0; j < w_rows; j++) store_weights(o.type, w + j * o.in, o.in, w_stored + j * o.in);
  }
  ~Layer() {
    delete packed;
    delete lora;
  }

  void pack(const test::Context& ctx) {
    int64_t bytes = 0;
    EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &bytes));
    delete packed;
    packed = new Guarded<char>(bytes);
    memset(*packed, 0xff, size_t(bytes));  // NaN: whatever is not packed shows
    const int64_t half = w_rows / 2;
    EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, half, w_rows - half, FTH_F32, w + half * o.in, *packed));
    EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, half, FTH_F32, w, *packed));
    if (o.rank == 0) return;
    EXPECT_OK(ctx, fth_lora_bytes(ctx, &shape, &bytes));
    delete lora;
    lora = new Guarded<char>(bytes);
    memset(*lora, 0xff, size_t(bytes));
    for (int32_t d = 0; d < kDepths; d++)
      EXPECT_OK(ctx, fth_lora_pack(ctx, &shape, d, 0.5f, FTH_F32, a + int64_t(d) * o.rank * o.in,
                                   b + d * w_rows * o.rank, *lora));
  }

  fth_status run(const test::Context& ctx, int64_t count, const fth_row* rows, const float* x, const float* r,
                 const float* g, float* y) {
    return fth_linear(ctx, &shape, count, rows, x, *packed, o.bias ? bias.get() : nullptr,
                      o.rank ? lora->get() : nullptr, r, g, y);
  }

  double lora_stored(float v) const { return o.type == FTH_F32 ? v : bf16(v); }

  // z of W's row j, and a bound on the error of its fp32 evaluation.
  double preactivation(int64_t j, int32_t depth, const float* x, const double* x_stored, double* bound) const {
    double z = 0, size = 0, slack = 0;
    for (int64_t k = 0; k < o.in; k++) {
      const double term = w_stored[j * o.in + k] * x_stored[k];
      z += term;
      size += fabs(term);
    }
    if (o.bias) {
      z += bias[j];
      size += fabs(bias[j]);
    }
    for (int64_t t = 0; t < o.rank; t++) {
      double inner = 0, inner_size = 0;
      for (int64_t k = 0; k < o.in; k++) {
        const double term = lora_stored(a[(int64_t(depth) * o.rank + t) * o.in + k]) * lora_stored(x[k]);
        inner += term;
        inner_size += fabs(term);
      }
      const double factor = lora_stored(b[(depth * w_rows + j) * o.rank + t] * 0.5f);
      z += factor * inner;
      size += fabs(factor * inner);
      // A x is itself a sum of `in` terms, and rounded to bf16 before B.
      slack += fabs(factor) * (inner_size * (o.in + 2) * 0x1p-24 + (o.type == FTH_F32 ? 0 : fabs(inner) * 0x1p-8));
    }
    // A chain of n rounded additions errs by at most n 2^-24 of the sum of magnitudes; the dot instruction rounds twice
    // per pair and drops subnormals.
    *bound = size * (o.in + o.rank + 4) * 0x1p-24 + slack + 1e-30;
    return z;
  }
};

// |act'| stays below 1.2, and act itself is good to about 8 ulp of max(|z|, tiny).
double activation_bound(double z, double bound) { return 1.2 * bound + fabs(z) * 8 * 0x1p-24; }

void compare(int32_t isa, const Options& o, int64_t count, int32_t workers) {
  test::Context ctx(isa, workers);
  Layer layer(o, uint64_t(o.in * 31 + o.out + count));
  layer.pack(ctx);
  test::Random random(9);
  Guarded<float> x(count * o.in), r(count * o.out), g(count), y(count * o.out);
  Guarded<fth_row> rows(count);
  random.fill(x, x.size(), 2.f);
  random.fill(r, r.size());
  random.fill(g, count);
  for (int64_t i = 0; i < count; i++) {
    rows[i] = test::row();
    rows[i].depth = int32_t(random.below(Layer::kDepths));
  }
  const bool in_place = o.residual != 0 && count % 2 == 0;
  if (in_place) y.copy_from(r);
  EXPECT_OK(ctx, layer.run(ctx, count, rows, x, in_place ? y.get() : r.get(), g, y));
  Guarded<double> stored(o.in);
  for (int64_t i = 0; i < count; i++) {
    store_input(o.type, x + i * o.in, o.in, stored);
    for (int64_t j = 0; j < o.out; j++) {
      double bound, value_bound, z = layer.preactivation(j, rows[i].depth, x + i * o.in, stored, &bound);
      double want = activate(o.activation, z);
      bound = activation_bound(z, bound);
      if (o.glu) {
        const double value = layer.preactivation(o.out + j, rows[i].depth, x + i * o.in, stored, &value_bound);
        bound = bound * (fabs(value) + value_bound) + fabs(want) * value_bound;
        want *= value;
      }
      if (o.residual == FTH_RESIDUAL_GATED) {
        want *= g[i];
        bound *= fabs(g[i]);
      }
      if (o.residual != 0) want += r[i * o.out + j];
      bound += (fabs(want) + 1e-30) * 4 * 0x1p-24 + fabs(o.residual ? r[i * o.out + j] : 0) * 0x1p-24;
      EXPECT(fabs(y[i * o.out + j] - want) <= bound,
             "isa %d in %d out %d type %d act %d glu %d count %d row %d feature %d: %g, want %g +- %g", isa, o.in,
             o.out, o.type, o.activation, o.glu, int(count), int(i), int(j), y[i * o.out + j], want, bound);
    }
  }
}

}  // namespace

// Emulated devices are slow: fewer shapes, and a number of rows for every width of a tile.
const std::vector<int32_t> kInputs = test::kCuda ? std::vector<int32_t>{1, 17, 300}
                                                 : std::vector<int32_t>{1, 2, 17, 64, 129, 300};
const std::vector<int32_t> kOutputs = test::kCuda ? std::vector<int32_t>{1, 65}
                                                  : std::vector<int32_t>{1, 15, 64, 65, 200};
const std::vector<int64_t> kCounts = test::kCuda ? std::vector<int64_t>{3, 12, 27}
                                                 : std::vector<int64_t>{1, 2, 3, 5, 16};

TEST(matches_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes) {
      for (int32_t in : kInputs)
        for (int32_t out : kOutputs)
          for (int64_t count : kCounts)
            for (int32_t options = 0; options < 4; options++)
              compare(isa,
                      {in, out, type, (in + out + options) % 5, options & 1, options % 3, options & 2 ? 5 : 0,
                       (options & 1) != 0},
                      count, 1 + options % 2);
      // Several blocks of k, several chunks of rows.
      compare(isa, {4403, 67, type, FTH_SILU, 1, FTH_RESIDUAL_ADD, 0, true}, 7, 2);
      compare(isa, {33, 70, type, FTH_GELU, 0, FTH_RESIDUAL_GATED, 9, true}, 203, 2);
    }
}

TEST(bits_do_not_depend_on_workers_or_company) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes)
      for (int32_t glu : {0, 1}) {
        const Options o{2501, test::kCuda ? 90 : 450, type, FTH_SILU, glu, FTH_RESIDUAL_GATED, 6, true};
        const int64_t most = test::kCuda ? 70 : isa == FTH_ISA_SCALAR ? 8 : 150;
        test::Context single(isa, 1), several(isa, 3);
        Layer layer(o, 3);
        layer.pack(single);
        test::Random random(4);
        Guarded<float> x(most * o.in), r(most * o.out), g(most), y(most * o.out), other(most * o.out);
        Guarded<fth_row> rows(most);
        random.fill(x, x.size());
        random.fill(r, r.size());
        random.fill(g, most);
        for (int64_t i = 0; i < most; i++) {
          rows[i] = test::row();
          rows[i].depth = int32_t(random.below(Layer::kDepths));
        }
        EXPECT_OK(single, layer.run(single, most, rows, x, r, g, y));
        // Every tile height, one row to all, in another place of the batch.
        for (int64_t count :
             {int64_t(1), int64_t(2), int64_t(3), int64_t(4), int64_t(5), int64_t(6), int64_t(7), most - 1}) {
          const int64_t first = (most - count) / 2;
          EXPECT_OK(several,
                    layer.run(several, count, rows + first, x + first * o.in, r + first * o.out, g + first, other));
          EXPECT(memcmp(other, y + first * o.out, sizeof(float) * size_t(count * o.out)) == 0,
                 "isa %d type %d glu %d count %d", isa, type, glu, int(count));
        }
      }
}

// Every activation over its whole range, through a weight of 1.
TEST(activations_are_accurate) {
  const int64_t count = 4001;
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t activation = FTH_IDENTITY; activation <= FTH_SILU; activation++) {
      test::Context ctx(isa);
      const fth_linear_shape shape{1, 1, FTH_F32, activation, 0, 0, 0, 0};
      const float one = 1;
      int64_t bytes = 0;
      EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &bytes));
      Guarded<char> packed(bytes);
      Guarded<float> x(count), y(count);
      EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, 1, FTH_F32, &one, packed));
      for (int64_t i = 0; i < count; i++) x[i] = float(i - count / 2) * 0.01f;
      x[0] = -3e38f;
      x[1] = 3e38f;
      x[2] = -1e20f;
      x[3] = -90.f;
      x[4] = 90.f;
      x[5] = 1e-30f;
      x[6] = -104.f;
      x[7] = 89.f;
      EXPECT_OK(ctx, fth_linear(ctx, &shape, count, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, y));
      for (int64_t i = 0; i < count; i++) {
        const double want = activate(activation, double(x[i]));
        EXPECT(fabs(y[i] - want) <= activation_bound(want, 0) + fmin(fabs(double(x[i])), 12) * 4 * 0x1p-24,
               "isa %d activation %d at %g: %g, want %g", isa, activation, x[i], y[i], want);
      }
      x[0] = NAN;
      EXPECT_OK(ctx, fth_linear(ctx, &shape, 1, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, y));
      EXPECT(isnan(y[0]), "isa %d activation %d hides NaN: %g", isa, activation, y[0]);
    }
}

// All kernels of quantised weights give the same bits, those that a context of this machine would not choose too.
TEST(quantised_kernels_agree) {
  if (test::kCuda) return;
  using namespace fth::linear;
  __builtin_cpu_init();
  const bool avxvnni = fth_isa_best() >= FTH_ISA_AVX2 && __builtin_cpu_supports("avxvnni");
  const bool avx512vnni = fth_isa_best() >= FTH_ISA_AVX512 && __builtin_cpu_supports("avx512vnni");
  Quantise* quantise[] = {scalar::quantise, avx2::quantise, avx512::quantise};
  Panels* kernels[] = {fth_isa_best() >= FTH_ISA_AVX2 ? avx2::panels_quantised : nullptr,
                       avxvnni ? avx2vnni::panels_quantised : nullptr,
                       avx512vnni ? avx512vnni::panels_quantised : nullptr};
  for (int32_t k : {5, 32, 128, 160, 512, 1000, 1160})
    for (int32_t type : {FTH_I8, FTH_Q8_0, FTH_Q4_0})
      for (int64_t count : {1, 2, 3, 4, 5, 6, 7, 13, 100}) {
        const int64_t n = 130, span = span_of(type), bytes = units(k) * kUnitBytes;
        Layer layer({k, int32_t(n), type, FTH_IDENTITY, 0, 0, 0, true}, uint64_t(k));
        // The widest codes: 8-bit sums of pairs must not saturate.
        for (int64_t i = 0; i < layer.w.size(); i++) layer.w[i] = i % 3 == 0 ? -1.f : 1.f;
        test::Context ctx;
        layer.pack(ctx);
        test::Random random(2);
        Guarded<float> x(count * k), y(count * n), want(count * n);
        random.fill(x, x.size());
        for (int64_t i = 0; i < k; i++) x[i] = i % 2 == 0 ? 3.f : -3.f;
        Guarded<char> codes(count * bytes), other(count * bytes);
        scalar::quantise(x, k, span, codes, 0, count);
        for (int32_t isa = 1; isa <= test::last_isa(); isa++) {
          memset(other, 0xff, size_t(other.size()));
          quantise[isa](x, k, span, other, 0, count);
          EXPECT(memcmp(other, codes, size_t(codes.size())) == 0, "isa %d k %d", isa, k);
        }
        Args a{};
        a.type = type;
        a.weight = *layer.packed;
        a.k = k;
        a.n = n;
        a.x = codes.get();
        a.x_bytes = bytes;
        a.count = count;
        a.bias = layer.bias;
        a.y = want;
        a.y_stride = n;
        scalar::panels_quantised(a, 0, 3, 0, count);
        for (int i = 0; i < 3; i++) {
          if (kernels[i] == nullptr) continue;
          a.y = y;
          memset(y, 0xff, sizeof(float) * size_t(y.size()));
          kernels[i](a, 0, 3, 0, count);
          EXPECT(memcmp(y, want, sizeof(float) * size_t(y.size())) == 0, "type %d k %d count %d kernel %d",
                 type, k, int(count), i);
        }
      }
}

TEST(numbers_that_are_none_show_in_quantised_rows) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : {FTH_I8, FTH_Q8_0, FTH_Q4_0})
      for (float bad : {NAN, INFINITY, -INFINITY}) {
        test::Context ctx(isa);
        Layer layer({200, 70, type, FTH_IDENTITY, 0, 0, 0, false}, 5);
        layer.pack(ctx);
        Guarded<float> x(2 * 200), y(2 * 70);
        test::Random random(3);
        random.fill(x, x.size());
        x[150] = bad;
        x[200 + 1] = 1e-35f;  // fits in no code beside the others
        EXPECT_OK(ctx, layer.run(ctx, 2, nullptr, x, nullptr, nullptr, y));
        for (int64_t j = 0; j < 70; j++) {
          EXPECT(!isfinite(y[j]), "isa %d type %d: %g", isa, type, y[j]);
          EXPECT(isfinite(y[70 + j]), "isa %d type %d: %g", isa, type, y[70 + j]);
        }
        memset(x, 0, sizeof(float) * 400);
        x[3] = 1e-40f;
        EXPECT_OK(ctx, layer.run(ctx, 2, nullptr, x, nullptr, nullptr, y));
        for (int64_t j = 0; j < 140; j++) EXPECT(y[j] == 0, "isa %d type %d: %g", isa, type, y[j]);
        layer.w[69 * 200 + 7] = bad;
        layer.pack(ctx);
        EXPECT_OK(ctx, layer.run(ctx, 2, nullptr, x, nullptr, nullptr, y));
        EXPECT(isnan(y[69]), "isa %d type %d: %g", isa, type, y[69]);
        EXPECT(y[68] == 0, "isa %d type %d: %g", isa, type, y[68]);
      }
}

// Blocks go into a weight of their own type as they are, into others by their values.
TEST(packs_blocks) {
  const int32_t in = 96, out = 70;
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t source_type : {FTH_Q8_0, FTH_Q4_0})
      for (int32_t type : kTypes) {
        const int64_t block = source_type == FTH_Q8_0 ? 34 : 18;
        test::Context ctx(isa);
        test::Random random{uint64_t(source_type)};
        Guarded<char> blocks(out * in / 32 * block);
        Guarded<float> w(out * in), x(3 * in), y(3 * out), want(3 * out);
        for (int64_t b = 0; b < out * in / 32; b++) {
          char* at = blocks + b * block;
          const uint16_t d = uint16_t(0x2000 + random.below(0x800) + (random.below(2) << 15));
          memcpy(at, &d, 2);
          for (int64_t i = 2; i < block; i++) at[i] = char(random.below(256));
          for (int64_t i = 0; i < 32; i++) {
            const uint8_t byte = uint8_t(at[2 + (source_type == FTH_Q8_0 ? i : i % 16)]);
            const int code = source_type == FTH_Q8_0 ? int8_t(byte) : (i < 16 ? byte & 15 : byte >> 4) - 8;
            w[b * 32 + i] = float_of_f16(d) * float(code);
          }
        }
        random.fill(x, x.size());
        const fth_linear_shape shape{in, out, type, FTH_IDENTITY, 0, 0, 0, 0};
        int64_t bytes = 0;
        EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &bytes));
        Guarded<char> packed(bytes);
        memset(packed, 0xff, size_t(bytes));
        EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, out, source_type, blocks, packed));
        EXPECT_OK(ctx, fth_linear(ctx, &shape, 3, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, y));
        if (type != source_type) {
          EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, out, FTH_F32, w, packed));
          EXPECT_OK(ctx, fth_linear(ctx, &shape, 3, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, want));
          EXPECT(memcmp(y, want, sizeof(float) * 3 * out) == 0, "isa %d %d from %d", isa, type, source_type);
          continue;
        }
        // The very codes: the product of their values with what is read of x.
        Guarded<double> stored(in);
        for (int64_t i = 0; i < 3; i++) {
          store_input(type, x + i * in, in, stored);
          for (int64_t j = 0; j < out; j++) {
            double z = 0, size = 0;
            for (int64_t k = 0; k < in; k++) {
              z += double(w[j * in + k]) * stored[k];
              size += fabs(double(w[j * in + k]) * stored[k]);
            }
            EXPECT(fabs(y[i * out + j] - z) <= size * in * 0x1p-24, "isa %d type %d: %g, want %g", isa, type,
                   y[i * out + j], z);
          }
        }
        const fth_linear_shape odd{in - 1, out, type, 0, 0, 0, 0, 0};
        EXPECT(fth_linear_pack(ctx, &odd, 0, 1, source_type, blocks, packed) == FTH_INVALID_ARGUMENT);
        EXPECT(strstr(fth_context_message(ctx), "multiple of that long, got 95") != nullptr);
      }
}

// Rows of W as a checkpoint has them in FP8: scales of many sizes, all codes that are numbers. `value`: without scales.
struct F8Source {
  int32_t in, out;
  Guarded<float> scale, value;
  Guarded<uint8_t> rows;
  F8Source(int32_t in, int32_t out, uint64_t seed)
      : in(in), out(out), scale(out), value(int64_t(in) * out), rows(int64_t(4 + in) * out) {
    test::Random random(seed);
    for (int32_t j = 0; j < out; j++) {
      scale[j] = ldexpf(float(1 + random.below(1 << 20)), int(random.below(30)) - 40);
      for (int32_t i = 0; i < in; i++) set(j, i, uint8_t(random.below(127) | random.below(2) << 7));
      memcpy(row(j), scale + j, 4);
    }
  }
  uint8_t* row(int64_t j) { return rows + j * (4 + in); }
  void set(int64_t j, int64_t i, uint8_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const double size = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
    row(j)[4 + i] = code;
    value[j * in + i] = float(code & 0x80 ? -size : size);
  }
};

void multiply(const test::Context& ctx, const fth_linear_shape& shape, int32_t source_type, const void* source,
              int64_t count, const float* x, float* y) {
  int64_t bytes = 0;
  EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &bytes));
  Guarded<char> packed(bytes);
  memset(packed, 0xff, size_t(bytes));
  const int32_t rows = shape.out_features * (1 + shape.glu);
  EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, rows, source_type, source, packed));
  EXPECT_OK(ctx, fth_linear(ctx, &shape, count, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, y));
}

// The product with f8 weights is that with bf16 weights of the same numbers, times the scales, bit by bit.
TEST(f8_is_bf16_times_the_scale) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t in : test::kCuda ? std::vector<int32_t>{33, 1300} : std::vector<int32_t>{1, 7, 64, 257, 1300})
      for (int32_t out : {1, 70, 330})
        for (int64_t count : test::kCuda ? std::vector<int64_t>{1, 9, 40, 150}
                                         : std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 11, 20, 100}) {
          if (isa == FTH_ISA_SCALAR && !test::kCuda && count > 3) continue;
          test::Context ctx(isa);
          F8Source w(in, out, uint64_t(in + out));
          Guarded<float> x(count * in), y(count * out), want(count * out);
          test::Random random(7);
          random.fill(x, x.size());
          multiply(ctx, {in, out, FTH_F8_E4M3, 0, 0, 0, 0, 0}, FTH_F8_E4M3, w.rows, count, x, y);
          multiply(ctx, {in, out, FTH_BF16, 0, 0, 0, 0, 0}, FTH_F32, w.value, count, x, want);
          for (int64_t i = 0; i < y.size(); i++) {
            const float scaled = want[i] * w.scale[i % out];
            EXPECT(y[i] == scaled, "isa %d in %d out %d count %d: %a, want %a", isa, in, out, int(count), y[i], scaled);
          }
        }
}

// Every code by itself, in every place of a pair.
TEST(f8_codes_are_exact) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa);
    const int32_t in = 5, out = 256, counts[] = {5, 7};
    F8Source w(in, out, 1);
    for (int32_t j = 0; j < out; j++)
      for (int32_t i = 0; i < in; i++) w.set(j, i, uint8_t((j & 0x7f) == 0x7f ? 0 : j));
    for (int32_t count : counts)
      for (int32_t few : {0, 1}) {
        Guarded<float> x(count * in), y(count * out);
        memset(x, 0, sizeof(float) * size_t(x.size()));
        for (int32_t i = 0; i < count; i++) x[i * in + i % in] = 3;
        for (int32_t i = 0; i < count; i += few ? 1 : count)
          multiply(ctx, {in, out, FTH_F8_E4M3, 0, 0, 0, 0, 0}, FTH_F8_E4M3, w.rows, few ? 1 : count, x + i * in,
                   y + i * out);
        for (int64_t i = 0; i < y.size(); i++) {
          const float want = 3 * w.value[i % out * in] * w.scale[i % out];
          EXPECT(y[i] == want, "isa %d code %d: %g, want %g", isa, int(i % out), y[i], want);
        }
      }
  }
}

// Codes that are no numbers show in their feature alone, also where other types are made of them; numbers beyond the
// range of what rounds them do not.
TEST(f8_that_are_no_numbers_show) {
  const int32_t in = 70, out = 66;
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes) {
      if (type == FTH_Q8_0 || type == FTH_Q4_0) continue;
      test::Context ctx(isa);
      F8Source w(in, out, 2);
      Guarded<float> x(in), y(out), wide(int64_t(in) * out);
      for (int32_t i = 0; i < in; i++) x[i] = 1;
      w.row(3)[4 + 69] = 0x7f;
      w.row(65)[4] = 0xff;
      multiply(ctx, {in, out, type, 0, 0, 0, 0, 0}, FTH_F8_E4M3, w.rows, 1, x, y);
      for (int32_t j = 0; j < out; j++)
        EXPECT(isnan(y[j]) == (j == 3 || j == 65), "isa %d type %d feature %d: %g", isa, type, int(j), y[j]);
      if (type != FTH_F8_E4M3) continue;
      for (float bad : {NAN, INFINITY, -INFINITY}) {
        for (int64_t i = 0; i < wide.size(); i++) wide[i] = 0;
        wide[7 * in + 9] = bad;
        wide[8 * in + 9] = 1e-42f;
        wide[9 * in + 9] = -3e38f;
        multiply(ctx, {in, out, type, 0, 0, 0, 0, 0}, FTH_F32, wide, 1, x, y);
        for (int32_t j = 0; j < out; j++) {
          EXPECT(isnan(y[j]) == (j == 7), "isa %d feature %d: %g", isa, int(j), y[j]);
          if (j > 9 || j < 7) EXPECT(y[j] == 0, "isa %d feature %d: %g", isa, int(j), y[j]);
        }
        EXPECT(fabs(double(y[9]) + 3e38) < 1e32 && fabs(double(y[8])) < 1e-41, "isa %d: %g %g", isa, y[8], y[9]);
      }
    }
}

// Other types are made of the numbers that codes and scales stand for; and a half with glu is packed by itself.
TEST(packs_f8_sources) {
  const int32_t in = 96, out = 35;
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes) {
      test::Context ctx(isa);
      F8Source w(in, 2 * out, 4);
      Guarded<float> x(3 * in), y(3 * out), want(3 * out), wide(2 * in * out);
      test::Random random(5);
      random.fill(x, x.size());
      for (int64_t i = 0; i < wide.size(); i++) wide[i] = w.value[i] * w.scale[i / in];
      const fth_linear_shape shape{in, out, type, FTH_SILU, 1, 0, 0, 0};
      multiply(ctx, shape, FTH_F8_E4M3, w.rows, 3, x, y);
      if (type == FTH_F8_E4M3) continue;  // its codes are as they were, which another test says
      multiply(ctx, shape, FTH_F32, wide, 3, x, want);
      EXPECT(memcmp(y, want, sizeof(float) * size_t(y.size())) == 0, "isa %d type %d", isa, type);
    }
}

// Few rows have a block for each part of k, many may have larger tiles, and without room for the parts' sums one block
// adds up its own.
TEST(bits_do_not_depend_on_how_blocks_share_k) {
  if (!test::kCuda) return;
  const int64_t most = 300, out = 330;
  {
    const Options o{600, out, FTH_BF16, FTH_IDENTITY, 0, 0, 70, true};
    const int64_t few = 5;
    test::Context ctx;
    Layer layer(o, 3);
    layer.pack(ctx);
    test::Random random(4);
    Guarded<float> x(most * o.in), y(most * o.out), other(few * o.out);
    Guarded<fth_row> rows(most);
    random.fill(x, x.size());
    for (int64_t i = 0; i < most; i++) {
      rows[i] = test::row();
      rows[i].depth = int32_t(i * Layer::kDepths / most);
    }
    EXPECT_OK(ctx, layer.run(ctx, most, rows, x, nullptr, nullptr, y));
    for (int64_t first : {int64_t(0), most / Layer::kDepths - 2, most - few}) {
      EXPECT_OK(ctx, layer.run(ctx, few, rows + first, x + first * o.in, nullptr, nullptr, other));
      EXPECT(memcmp(other, y + first * o.out, sizeof(float) * size_t(few * o.out)) == 0, "row %d", int(first));
    }
  }
  if (test::kLent) return;  // what follows calls kernels itself
  using namespace fth::linear;
  for (int32_t in : {600, 400}) {  // two chains over k, one
    test::Context ctx;
    Layer layer({in, int32_t(out), FTH_BF16, FTH_SILU, 1, 0, 0, true}, 5);
    layer.pack(ctx);
    test::Random random(6);
    Guarded<float> x(most * in), y(most * out), other(most * out), sums(4 << 20);
    Guarded<uint16_t> rounded(most * in);
    Guarded<unsigned> tickets(1024);
    random.fill(x, x.size());
    cuda::round(x, in, rounded, in, most, {});
    memset(tickets, 0, sizeof(unsigned) * size_t(tickets.size()));
    Args a{};
    a.weight = *layer.packed;
    a.k = in;
    a.n = out;
    a.glu = true;
    a.activation = FTH_SILU;
    a.x = rounded.get();
    a.x_bytes = in * 2;
    a.bias = layer.bias;
    a.y_stride = out;
    const Workspace none{nullptr, 0, nullptr, 0, 4, true},
        room{sums, sums.size() * 4, tickets, tickets.size(), 4, true};
    for (const Workspace& space : {room, none})
      for (int64_t count : {most, int64_t(100), int64_t(40), int64_t(9), int64_t(2)}) {
        const bool first = count == most && space.partials != nullptr;
        a.count = count;
        a.y = first ? y : other;
        const Product product{FTH_BF16, a, {}};
        cuda::products(&product, 1, space, {});
        if (first) continue;
        EXPECT(memcmp(other, y, sizeof(float) * size_t(count * out)) == 0, "in %d count %d room %d", in, int(count),
               space.partials != nullptr);
      }
  }
}

// Checkpoints lie in memory that most devices do not reach, and are copied in pieces; everything else has to be reached.
TEST(packs_what_the_device_does_not_reach) {
  if (!test::kCuda || test::kLent) return;
  setenv("FATHOM_EMULATED_PAGEABLE", "0", 1);
  test::Context ctx;
  unsetenv("FATHOM_EMULATED_PAGEABLE");
  const int32_t in = 1100, out = 4100;
  const fth_linear_shape shape{in, out, FTH_BF16, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
  Guarded<float> w(int64_t(in) * out), host(out);
  for (int64_t i = 0; i < w.size(); i++) w[i] = float(i % 127);
  int64_t bytes = 0;
  EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &bytes));
  const auto map = [](int64_t size) {
    void* p = nullptr;
    EXPECT(fth_memory_map(FTH_MEMORY_DEVICE, 0, size, &p) == FTH_OK);
    return static_cast<float*>(p);
  };
  float *packed = map(bytes), *x = map(in * 4), *y = map(out * 4);
  x[1] = 1;
  EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, out, FTH_F32, w, packed));
  EXPECT_OK(ctx, fth_linear(ctx, &shape, 1, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, y));
  for (int64_t j = 0; j < out; j++) EXPECT(y[j] == w[j * in + 1], "feature %d: %g", int(j), y[j]);
  EXPECT_REFUSED_AS(ctx, "y must be memory that CUDA device 0 reaches, got address",
                    fth_linear(ctx, &shape, 1, nullptr, x, packed, nullptr, nullptr, nullptr, nullptr, host));
  EXPECT_REFUSED_AS(ctx, "packed must be memory that CUDA device 0 reaches, got address",
                    fth_linear_pack(ctx, &shape, 0, 1, FTH_F32, w, host));
  fth_memory_unmap(FTH_MEMORY_DEVICE, 0, packed, bytes);
  fth_memory_unmap(FTH_MEMORY_DEVICE, 0, x, in * 4);
  fth_memory_unmap(FTH_MEMORY_DEVICE, 0, y, out * 4);
}

// Row lists, bf16 output and the variants that a context of this machine would not choose.
TEST(kernels_work_on_listed_rows) {
  using namespace fth::linear;
  const int64_t k = 37, n = 77, total = 40, padding = test::kCuda ? 8 : 2;
  const int64_t padded_k = (k + padding - 1) / padding * padding, padded_n = (n + padding - 1) / padding * padding;
  Layer layer({int32_t(k), int32_t(n), FTH_BF16, FTH_SILU, 0, 0, 0, true}, 8);
  test::Context ctx;
  layer.pack(ctx);
  test::Random random(2);
  Guarded<float> x(total * k), addend(total * n), y(total * n);
  Guarded<uint16_t> rounded(total * padded_k), narrow(total * padded_n);
  Guarded<int32_t> list(13);
  random.fill(x, x.size());
  random.fill(addend, addend.size());
  for (int64_t i = 0; i < 13; i++) list[i] = int32_t(38 - 3 * i);
  Guarded<double> stored(k);
  Panels* kernels[] = {scalar::panels_bf16, avx2::panels_bf16, avx512::panels_bf16};
  Round* rounds[] = {scalar::round, avx2::round, avx512::round};
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    memset(rounded, 0xff, sizeof(uint16_t) * size_t(rounded.size()));
    if (test::kCuda) cuda::round(x, k, rounded, padded_k, total, {});
    else rounds[isa](x, k, k, rounded, padded_k, 0, total);
    memset(y, 0, sizeof(float) * size_t(y.size()));
    memset(narrow, 0xff, sizeof(uint16_t) * size_t(narrow.size()));
    Args a{};
    a.type = FTH_BF16;
    a.weight = *layer.packed;
    a.k = k;
    a.n = n;
    a.activation = FTH_SILU;
    a.x = rounded.get();
    a.x_bytes = padded_k * 2;
    a.rows = list;
    a.count = 13;
    a.bias = layer.bias;
    a.addend = addend;
    a.addend_stride = n;
    a.y = y;
    a.y_stride = n;
    a.y_bf16 = narrow;
    a.y_bf16_stride = padded_n;
    const Product product{FTH_BF16, a, {}};
    if (test::kCuda) cuda::products(&product, 1, {}, {});
    else kernels[isa](a, 0, 2, 0, 13);
    for (int64_t row = 0; row < total; row++) {
      const bool listed = row >= 2 && (38 - row) % 3 == 0;
      store_input(FTH_BF16, x + row * k, k, stored);
      for (int64_t j = 0; j < n; j++) {
        double bound, z = layer.preactivation(j, 0, x + row * k, stored, &bound) + double(addend[row * n + j]);
        const double want = listed ? activate(FTH_SILU, z) : 0;
        EXPECT(fabs(y[row * n + j] - want) <= activation_bound(z, bound + 3e-7),
               "isa %d row %d feature %d: %g, want %g", isa, int(row), int(j), y[row * n + j], want);
        EXPECT(narrow[row * padded_n + j] == (listed ? bf16_of_float(y[row * n + j]) : 0xffff),
               "isa %d row %d feature %d", isa, int(row), int(j));
      }
      for (int64_t j = n; j < padded_n; j++)
        EXPECT(narrow[row * padded_n + j] == (listed ? 0 : 0xffff), "isa %d row %d", isa, int(row));
    }
  }
}

TEST(packs_every_source_type) {
  test::Context ctx;
  const fth_linear_shape shape{3, 70, FTH_F32, 0, 0, 0, 0, 0};
  int64_t bytes = 0;
  EXPECT_OK(ctx, fth_linear_bytes(ctx, &shape, &bytes));
  Guarded<char> packed(bytes);
  Guarded<float> one(3), y(70);
  Guarded<uint16_t> source(70 * 3);
  one[0] = 0;
  one[1] = 1;
  one[2] = 0;
  for (int32_t type : {FTH_BF16, FTH_F16}) {
    for (int64_t i = 0; i < source.size(); i++) source[i] = uint16_t(0x3800 + i);
    EXPECT_OK(ctx, fth_linear_pack(ctx, &shape, 0, 70, type, source, packed));
    EXPECT_OK(ctx, fth_linear(ctx, &shape, 1, nullptr, one, packed, nullptr, nullptr, nullptr, nullptr, y));
    for (int64_t j = 0; j < 70; j++) {
      const float want = type == FTH_BF16 ? float_of_bf16(source[j * 3 + 1]) : float_of_f16(source[j * 3 + 1]);
      EXPECT(y[j] == want, "type %d feature %d: %g, want %g", type, int(j), y[j], want);
    }
  }
}

static int32_t packed_alignment(int32_t type) {
  return test::kCuda ? 16 : type == FTH_F32 || type == FTH_I8 || type == FTH_F8_E4M3 ? 4 : 2;
}

static void refuses_shapes(test::Arguments& a, fth_linear_shape* s) {
  a.range("shape.in_features", s->in_features, 1, 1 << 24);
  a.range("shape.out_features", s->out_features, 1, 1 << 24);
  a.weight_type("shape.weight_type", s->weight_type);
  a.range("shape.activation", s->activation, 0, 4);
  a.range("shape.glu", s->glu, 0, 1);
  a.range("shape.residual", s->residual, 0, 2);
  a.range("shape.lora_rank", s->lora_rank, 0, 65536);
  a.range("shape.lora_depths", s->lora_depths, 1, 65536);
}

TEST(sizes_keep_to_their_arguments) {
  for (const auto ask : {fth_linear_bytes, fth_lora_bytes}) {
    test::Arguments a;
    const auto shape = a.shape<fth_linear_shape>({4, 8, FTH_F32, FTH_SILU, 1, FTH_RESIDUAL_GATED, 2, 3});
    const auto bytes = a.output<int64_t>("bytes", 1);
    a.call = [&](fth_context* ctx) { return ask(ctx, shape, bytes); };
    a.guards();
    a.refusals();
    refuses_shapes(a, shape);
    if (ask == fth_lora_bytes) a.refused("shape.lora_rank must be at least 1, got 0", shape->lora_rank, 0);
    EXPECT_OK(a.ctx, a.call(a.ctx));
    const int64_t panel = 64 * 4, strip = 64 * 128;  // of an input; of 32
    const int64_t want = ask == fth_linear_bytes ? (test::kCuda ? strip : 2 * 4 * panel)
                                                 : (test::kCuda ? 3 * 2 * strip : 3 * (4 + 2) * panel);
    EXPECT(bytes[0] == want, "%lld", (long long)bytes[0]);
  }
}

TEST(packing_keeps_to_its_arguments) {
  for (int32_t type : kTypes)
    for (int32_t source_type : {FTH_F32, FTH_BF16, FTH_F16})
      for (int32_t in : {1, 7, 33})
        for (int32_t out : {1, 70}) {
          const int32_t rank = 5, depths = 2;
          const int32_t element = source_type == FTH_F32 ? 4 : 2, stored = packed_alignment(type);
          const int32_t pair_stored = packed_alignment(type == FTH_F32 ? FTH_F32 : FTH_BF16);
          const fth_linear_shape s{in, out, type, FTH_IDENTITY, 1, FTH_RESIDUAL_NONE, rank, depths};
          test::Arguments pack, pair;
          int64_t bytes = 0, first = out, count = out;
          EXPECT_OK(pack.ctx, fth_linear_bytes(pack.ctx, &s, &bytes));
          const auto shape = pack.shape(s);
          const auto source = pack.packed("source", count * in * element, element);
          const auto packed = pack.packed_output("packed", bytes, stored);
          int32_t kind = source_type;
          pack.call = [&](fth_context* ctx) {
            return fth_linear_pack(ctx, shape, first, count, kind, source, packed);
          };
          pack.guards();

          EXPECT_OK(pair.ctx, fth_lora_bytes(pair.ctx, &s, &bytes));
          const auto pair_shape = pair.shape(s);
          const auto a = pair.packed("a", rank * in * element, element);
          const auto b = pair.packed("b", int64_t(2 * out) * rank * element, element);
          const auto pairs = pair.packed_output("packed", bytes, pair_stored);
          int32_t depth = 1;
          float scale = 0.5f;
          pair.call = [&](fth_context* ctx) {
            return fth_lora_pack(ctx, pair_shape, depth, scale, kind, a, b, pairs);
          };
          pair.guards();

          if (in != 7 || out != 70) continue;
          pack.refusals();
          refuses_shapes(pack, shape);
          for (int32_t bad : {-1, int32_t(FTH_I8), FTH_F8_E4M3 + 1})
            pack.refused("source_type must be FTH_F32, FTH_BF16, FTH_F16, FTH_Q8_0, FTH_Q4_0 or FTH_F8_E4M3, got", kind,
                         bad);
          pack.refused("source_type 4 comes in blocks of 32, its rows must be a multiple of that long, got 7", kind,
                       FTH_Q8_0);
          pack.range("first", first, 0, 2 * out);
          pack.range("count", count, 0, out);
          pack.nothing(count);
          pair.refusals();
          refuses_shapes(pair, pair_shape);
          pair.refused("shape.lora_rank must be at least 1, got 0", pair_shape->lora_rank, 0);
          pair.range("source_type", kind, 0, 2);
          pair.range("depth", depth, 0, 1);
          pair.finite("scale", scale);
        }
}

TEST(keeps_to_its_arguments) {
  for (int32_t type : kTypes)
    for (int32_t in : {1, 17, 70})
      for (int32_t out : {1, 15, 65})
        for (int32_t glu : {0, 1}) {
          const int32_t rank = 3, depths = 2, w_rows = out * (1 + glu);
          const int32_t stored = packed_alignment(type);
          const int32_t pair_stored = packed_alignment(type == FTH_F32 ? FTH_F32 : FTH_BF16);
          test::Arguments a;
          int64_t count = 7, bytes = 0, lora_bytes = 0;
          const auto shape =
              a.shape<fth_linear_shape>({in, out, type, FTH_SILU, glu, FTH_RESIDUAL_GATED, rank, depths});
          EXPECT_OK(a.ctx, fth_linear_bytes(a.ctx, shape, &bytes));
          EXPECT_OK(a.ctx, fth_lora_bytes(a.ctx, shape, &lora_bytes));
          const auto rows = a.input<fth_row>("rows", count);
          const auto x = a.input<float>("x", count * in);
          const auto packed = a.packed("packed", bytes, stored);
          const auto bias = a.optional<float>("bias", w_rows);
          const auto lora = a.packed("lora", lora_bytes, pair_stored, false);
          const auto residual = a.input<float>("residual", count * out);
          const auto gate = a.input<float>("gate", count);
          const auto y = a.output<float>("y", count * out);
          for (int32_t i = 0; i < count; i++) {
            rows[i] = test::row();
            rows[i].depth = i % depths;
          }
          for (const auto& v : {x, bias, residual, gate}) a.random.fill(v, v.size());
          a.call = [&](fth_context* ctx) {
            return fth_linear(ctx, shape, count, rows, x, packed, bias, lora, residual, gate, y);
          };
          a.guards();
          if (in != 17 || out != 65) continue;
          a.refusals();
          refuses_shapes(a, shape);
          a.in_place(residual, y);
          a.nothing(count);
          a.counts(count);
          a.range("rows[1].depth", rows[1].depth, 0, 1);
          a.refused("lora must be null when shape.lora_rank is 0", shape->lora_rank, 0);
          // What the shape does not use may be anything.
          shape->residual = FTH_RESIDUAL_NONE;
          EXPECT_OK(a.ctx, fth_linear(a.ctx, shape, count, nullptr, x, packed, bias, nullptr, y, y, y));
        }
}
