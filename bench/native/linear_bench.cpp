#include <stdio.h>

#include "bench.h"

namespace {

constexpr int64_t kRows[] = {1, 2, 4, 8, 16, 64, 128, 512}, kMostRows = 512;

fth_linear_shape product(const bench::Model& m, int32_t type, int which) {
  const int32_t heads = m.heads * m.head_dim, kv = 2 * m.kv_heads * m.head_dim;
  switch (which) {
    case 0: return {m.hidden, heads + kv, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
    case 1: return {heads, m.hidden, type, FTH_IDENTITY, 0, FTH_RESIDUAL_ADD, 0, 0};
    case 2: return {m.hidden, m.inner, type, FTH_SILU, 1, FTH_RESIDUAL_NONE, 0, 0};
    default: return {m.inner, m.hidden, type, FTH_IDENTITY, 0, FTH_RESIDUAL_ADD, 0, 0};
  }
}

// The products `first` .. `last` of a layer, one after another: one of them, or all linears of a block.
class Products {
 public:
  // False if this library has no weights of the type.
  bool prepare(fth_context* ctx, const bench::Model& m, int32_t type, int first, int last) {
    for (int i = first; i <= last; i++) {
      Part& part = parts_[count_];
      part.shape = product(m, type, i);
      if (fth_linear_bytes(ctx, &part.shape, &part.bytes) != FTH_OK) return false;
      count_++;
      part.bytes = fth::round_up(part.bytes, 64);
      bytes_ += part.bytes;
      multiplications_ += double(part.shape.in_features) * part.shape.out_features * (1 + part.shape.glu);
    }
    return true;
  }
  int64_t bytes() const { return bytes_; }
  double flops(int64_t rows) const { return 2 * multiplications_ * double(rows); }
  void run(fth_context* ctx, int64_t rows, const float* x, const char* weights, float* y) const {
    for (int i = 0; i < count_; i++) {
      const fth_linear_shape& shape = parts_[i].shape;
      MUST(ctx, fth_linear(ctx, &shape, rows, nullptr, x, weights, nullptr, nullptr,
                           shape.residual == FTH_RESIDUAL_ADD ? x : nullptr, nullptr, y));
      weights += parts_[i].bytes;
    }
  }

 private:
  struct Part {
    fth_linear_shape shape;
    int64_t bytes;
  };
  Part parts_[bench::kProductCount];
  int count_ = 0;
  int64_t bytes_ = 0;
  double multiplications_ = 0;
};

void measure(fth_context* ctx, const bench::Options& options, const Products& products, int32_t type,
             const char* what, int64_t rows, const bench::Memory& weights, int64_t copies, const bench::Memory& x,
             const bench::Memory& y) {
  bench::Samples samples;
  bench::Ideal ideal(ctx, type, products.flops(rows), double(products.bytes()));
  int64_t copy = 0;
  const auto next = [&] { return weights.bytes() + copy++ % copies * products.bytes(); };
  const double until = bench::now() + options.seconds;
  do {
    ideal.sample(next());
    const char* w = next();
    samples.time([&] { products.run(ctx, rows, x.floats(), w, y.floats()); });
  } while (bench::now() < until || samples.size() < 3);
  bench::report(ideal.line("linear", what), samples);
}

// All lines of one case, at every number of rows.
void measure_case(fth_context* ctx, const bench::Options& options, const bench::Model& m,
                  const bench::Type& type, const char* name, int first, int last) {
  constexpr int kLines = 2 * sizeof kRows / sizeof *kRows;
  char what[kLines][64];
  bool wanted = false;
  for (int i = 0; i < kLines; i++) {
    snprintf(what[i], sizeof what[i], "%s %s %s %lld rows %s", m.name, name, type.name, (long long)kRows[i / 2],
             i % 2 == 0 ? "streamed" : "resident");
    wanted |= options.wants(what[i]);
  }
  Products products;
  if (!wanted || !products.prepare(ctx, m, type.code, first, last)) return;
  const int64_t copies = bench::kStream / products.bytes() + 1 + (products.bytes() > bench::kStream);
  bench::Memory weights(copies * products.bytes()), x(kMostRows * m.inner * 4), y(kMostRows * m.inner * 4);
  weights.fill();
  x.fill();
  for (int i = 0; i < kLines; i++)
    if (options.wants(what[i]))
      measure(ctx, options, products, type.code, what[i], kRows[i / 2], weights, i % 2 == 0 ? copies : 1, x, y);
}

}  // namespace

BENCH(linear) {
  for (const bench::Model& m : bench::kModels)
    for (const bench::Type& type : bench::kTypes) {
      measure_case(ctx, options, m, type, "block", 0, bench::kProductCount - 1);
      for (int i = 0; i < bench::kProductCount; i++)
        measure_case(ctx, options, m, type, bench::kProducts[i], i, i);
    }
}
