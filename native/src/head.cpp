#include "head/head.h"

#include "context.h"
#include "linear.h"
#include "norm.h"

namespace {

using fth::ceil_div;
using fth::head::kChunk;
using fth::linear::kPanel;

constexpr int64_t kPiece = 64 << 10;  // bytes of weights that are worth handing to another thread

// A slab of rows whose inputs are ready: chunk after chunk of the vocabulary, each on all rows.
struct Sweep {
  fth_context* ctx;
  const fth_head_shape& shape;
  fth::WeightShape weight;
  int64_t count;
  const void* input;         // rows of x_bytes
  const char* packed;
  const int32_t* chosen_id;  // null: none
  float* chosen_logit;
  float* logits;             // null: not kept
  float* tile;               // without logits: per worker [linear::kRowChunk][kChunk]; on a device those of a piece
  fth::head::Partial* partials;  // [count][chunks()]
  int64_t step;              // columns of a piece, on a device; 0: no logit is stored

  int64_t chunks() const { return chunks_of(ctx, weight.out); }
  static int64_t chunks_of(const fth_context* ctx, int64_t vocab_size) {
    return ceil_div(vocab_size, FTH_ON_DEVICE(ctx) ? fth::head::cuda::kChunk : kChunk);
  }

  void run(fth_head_stats* stats) const {
    if (FTH_ON_DEVICE(ctx)) return run_on_device(stats);
    const int64_t tile_rows = ceil_div(count, ceil_div(count, fth::linear::kRowChunk));
    fth::parallel(ctx, chunks(), 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t chunk = begin; chunk < end; chunk++)
        for (int64_t row = 0; row < count; row += tile_rows) {
          const int64_t first = chunk * kChunk, columns = least(weight.out - first, kChunk);
          const int64_t rows = least(count - row, tile_rows);
          float* z = logits == nullptr ? tile + worker * fth::linear::kRowChunk * kChunk
                                       : logits + row * weight.out + first;
          const int64_t stride = logits == nullptr ? kChunk : weight.out;
          compute(row, rows, {z, stride, columns, first, shape.logit_scale, shape.softcap,
                              partials + row * chunks() + chunk, chunks()});
          for (int64_t i = 0; i < rows; i++) choose(row + i, z + i * stride, first, columns);
        }
    });
    if (stats == nullptr) return;
    fth::parallel(ctx, count, 1 + 1024 / chunks(), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) stats[i] = fth::head::merge(partials + i * chunks(), chunks());
    });
  }

  // Columns of the vocabulary whose logits stay in a device's second-level cache between product and statistics, or 0
  // if these are made from the sums of a product as they are.
  static int64_t piece_columns(fth_context* ctx, const fth_head_shape& shape, int64_t count, bool keep) {
    constexpr int64_t kFloats = 4 << 20, kMostChosen = 64;  // ids that a chunk looks at per row
    const bool possible = shape.weight_type != FTH_F32 && ctx->device->wgmma();
    if (possible && !keep && shape.chosen <= kMostChosen) return 0;
    return least(kFloats / count / kChunk * kChunk, fth::round_up(shape.vocab_size, kChunk));
  }

  void run_on_device(fth_head_stats* stats) const {
    if (step == 0) run_without_logits();
    else run_in_pieces();
    if (stats != nullptr) fth::head::cuda::merge(partials, chunks(), count, stats, ctx->device->stream());
  }

  fth::head::cuda::Piece piece(float* z, int64_t stride, int64_t first, int64_t columns) const {
    const fth::head::Args args{z, stride, columns, first, shape.logit_scale, shape.softcap,
                               partials + first / fth::head::cuda::kChunk, chunks()};
    return {args, logits != nullptr, chosen_id, chosen_logit, chosen_id == nullptr ? 0 : shape.chosen};
  }

  void run_without_logits() const {
    fth::linear::Args product = product_on_device(0, weight.out);
    product.count = count;
    fth::head::cuda::product(product, piece(nullptr, 0, 0, weight.out), ctx->device->workspace(),
                             ctx->device->stream());
  }

  void run_in_pieces() const {
    for (int64_t first = 0; first < weight.out; first += step) {
      fth::linear::Args product = product_on_device(first, least(weight.out - first, step));
      product.count = count;
      product.y = logits == nullptr ? tile : logits + first;
      product.y_stride = logits == nullptr ? step : weight.out;
      enqueue(product);
      fth::head::cuda::statistics(piece(product.y, product.y_stride, first, product.n), count, ctx->device->stream());
    }
  }

  void run_chosen_on_device() const {
    fth::linear::Args product = product_on_device(0, weight.out);
    product.picks = chosen_id;
    product.picks_per_row = shape.chosen;
    product.count = count * shape.chosen;
    product.y = chosen_logit;
    enqueue(product);
    fth::head::cuda::cap({chosen_logit, 0, 0, 0, shape.logit_scale, shape.softcap, nullptr, 0}, product.count,
                         ctx->device->stream());
  }

  // The product of features first .. first + columns - 1, as far as it does not depend on the rows.
  fth::linear::Args product_on_device(int64_t first, int64_t columns) const {
    namespace tiles = fth::linear::tiles;
    fth::linear::Args product{};
    product.type = weight.type;
    product.weight = packed + first / tiles::features(false) * tiles::strip_bytes(weight.type, weight.in);
    product.k = weight.in;
    product.n = columns;
    product.whole_n = weight.out;
    product.x_bytes = fth::x_bytes(weight.in, weight.type);
    product.x = input;
    return product;
  }

  void enqueue(const fth::linear::Args& product) const {
    fth::LinearCall call{product, nullptr, nullptr, {}, nullptr, nullptr, nullptr};
    fth::run_linears(ctx, &call, 1);
  }

  // The chosen logits and no others, but for those that share a panel of W with them.
  void run_chosen() const {
    if (FTH_ON_DEVICE(ctx)) return run_chosen_on_device();
    const int64_t grain = ceil_div(kPiece, weight.panel_bytes());
    fth::parallel(ctx, count * shape.chosen, grain, [&](int64_t begin, int64_t end, int) {
      alignas(64) float z[kPanel];
      fth::head::Partial partial;
      for (int64_t c = begin; c < end; c++) {
        const int64_t first = chosen_id[c] / kPanel * kPanel, columns = least(weight.out - first, kPanel);
        compute(c / shape.chosen, 1, {z, kPanel, columns, first, shape.logit_scale, shape.softcap, &partial, 1});
        chosen_logit[c] = z[chosen_id[c] - first];
      }
    });
  }

  // Logits of some rows, whose places `a` names, and their partials.
  void compute(int64_t row, int64_t rows, const fth::head::Args& a) const {
    fth::linear::Args product{};
    product.type = weight.type;
    product.weight = packed + a.first / kPanel * weight.panel_bytes();
    product.k = weight.in;
    product.n = a.columns;
    product.x_bytes = fth::x_bytes(weight.in, weight.type);
    product.x = static_cast<const char*>(input) + row * product.x_bytes;
    product.count = rows;
    product.y = a.z;
    product.y_stride = a.stride;
    fth::panels_kernel(ctx, weight.type)(product, 0, ceil_div(a.columns, kPanel), 0, rows);
    fth::for_isa(ctx, fth::head::scalar::statistics, fth::head::avx2::statistics,
                 fth::head::avx512::statistics)(a, 0, rows);
  }

  // The chosen logits of a row that lie in this chunk.
  void choose(int64_t row, const float* z, int64_t first, int64_t columns) const {
    for (int64_t c = row * shape.chosen; c < (row + 1) * shape.chosen; c++)
      if (chosen_id[c] >= first && chosen_id[c] < first + columns) chosen_logit[c] = z[chosen_id[c] - first];
  }

  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
};

}  // namespace

extern "C" fth_status fth_head(fth_context* ctx, const fth_head_shape* shape, int64_t count, const float* h,
                               const float* gain, const float* norm_bias, const void* packed, const int32_t* chosen_id,
                               fth_head_stats* stats, float* chosen_logit, float* logits) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("shape", shape)) return check.status();
  check.range("shape.hidden_size", shape->hidden_size, 1, fth::kMostFeatures);
  check.range("shape.vocab_size", shape->vocab_size, 1, fth::kMostFeatures);
  fth::check_weight_type(check, shape->weight_type);
  check.range("shape.norm", shape->norm, -1, FTH_LAYER_NORM);
  check.that(shape->norm_eps >= 0 && shape->norm_eps < 1e30f, "shape.norm_eps must be a finite number >= 0, got %g",
             double(shape->norm_eps));
  check.finite("shape.logit_scale", shape->logit_scale);
  check.that(shape->softcap >= 0 && shape->softcap < 1e30f, "shape.softcap must be a finite number >= 0, got %g",
             double(shape->softcap));
  check.range("shape.chosen", shape->chosen, 0, 65536);
  check.range("count", count, 0, fth::kMostRows);
  if (!check.ok()) return check.status();
  const fth::WeightShape weight{shape->hidden_size, shape->vocab_size, shape->weight_type, false, FTH_ON_DEVICE(ctx)};
  const bool any = count > 0, chooses = any && shape->chosen > 0;
  const bool only_chosen = chooses && stats == nullptr && logits == nullptr;
  check.array("h", h, any);
  check.array("gain", gain, false);
  check.array("norm_bias", norm_bias, false);
  check.pointer("packed", packed, weight.alignment(), any);
  check.array("chosen_id", chosen_id, chooses);
  check.array("stats", stats, any && !only_chosen);
  check.array("chosen_logit", chosen_logit, chooses);
  check.array("logits", logits, false);
  if (!check.ok()) return check.status();
  const int64_t h_bytes = count * weight.in * 4, chosen_bytes = count * shape->chosen * 4;
  check.disjoint({{"h", h, h_bytes},
                  {"gain", gain, weight.in * 4},
                  {"norm_bias", norm_bias, weight.in * 4},
                  {"packed", packed, weight.bytes()},
                  {"chosen_id", chosen_id, chosen_bytes}},
                 {{"stats", stats, count * int64_t(sizeof *stats)},
                  {"chosen_logit", chosen_logit, chosen_bytes},
                  {"logits", logits, count * weight.out * 4}});
  check.on_host({{"chosen_id", chosen_id}});
  check.on_device({{"h", h}, {"gain", gain}, {"norm_bias", norm_bias}, {"packed", packed}, {"stats", stats},
                   {"chosen_logit", chosen_logit}, {"logits", logits}});
  check.indices("chosen_id", chosen_id, count * shape->chosen, shape->vocab_size);
  if (!check.ok() || !any) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("chosen_id", chosen_id, count * shape->chosen)}))
    return status;

  // Long inputs go in slabs, so that scratch does not grow with them.
  constexpr int64_t kSlab = 1024;
  const int64_t slab = count < kSlab ? count : kSlab;
  const int64_t chunks = Sweep::chunks_of(ctx, weight.out);
  // A whole pass reads W and takes a twelfth of that time for each row, as measured; a chosen logit reads its panel.
  const bool on_device = FTH_ON_DEVICE(ctx);
  // On a device, as estimated, a chosen logit costs two panels of a whole pass, which reads W once for 64 rows.
  const int64_t panels = ceil_div(weight.out, kPanel), pass = on_device ? ceil_div(count, 64) * 6 : 12 + count;
  const bool few = only_chosen && 12 * count * shape->chosen < pass * panels;
  fth::Layout layout;
  const fth::InputScratch input_at(layout, weight.in, weight.type, slab, shape->norm >= 0, false);
  const int64_t step = on_device ? Sweep::piece_columns(ctx, *shape, slab, logits != nullptr) : 0;
  const int64_t tile = on_device ? slab * step : ctx->info.workers * fth::linear::kRowChunk * kChunk;
  const size_t tile_at = layout.add<float>(logits == nullptr && !few ? tile : 0);
  const size_t partials_at = layout.add<fth::head::Partial>(few ? 0 : slab * chunks);
  char* scratch = ctx->reserve_device(layout.bytes());
  if (scratch == nullptr && layout.bytes() > 0) return FTH_OUT_OF_MEMORY;
  auto* partials = reinterpret_cast<fth::head::Partial*>(scratch + partials_at);

  for (int64_t first = 0; first < count; first += slab) {
    const int64_t n = count - first < slab ? count - first : slab;
    fth::norm::Args norm{};
    norm.x = h + first * weight.in;
    norm.gain = gain;
    norm.bias = norm_bias;
    norm.width = weight.in;
    norm.eps = shape->norm_eps;
    norm.layer = shape->norm == FTH_LAYER_NORM;
    const fth::Input input = fth::product_input(ctx, norm, shape->norm >= 0, weight.type, n, input_at, scratch);
    const Sweep sweep{.ctx = ctx,
                      .shape = *shape,
                      .weight = weight,
                      .count = n,
                      .input = input.x,
                      .packed = static_cast<const char*>(packed),
                      .chosen_id = chooses ? chosen_id + first * shape->chosen : nullptr,
                      .chosen_logit = chooses ? chosen_logit + first * shape->chosen : nullptr,
                      .logits = logits == nullptr ? nullptr : logits + first * weight.out,
                      .tile = reinterpret_cast<float*>(scratch + tile_at),
                      .partials = partials,
                      .step = step};
    if (few) sweep.run_chosen();
    else sweep.run(stats == nullptr ? nullptr : stats + first);
  }
  return fth::finish(ctx);
}
