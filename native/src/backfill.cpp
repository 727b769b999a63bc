#include "backfill/backfill.h"

#include "context.h"
#include "kv.h"
#include "linear.h"
#include "norm.h"
#include "rope.h"

namespace {

using fth::Check;

// All targets, (depth, layer) pairs, are one product: its rows are [depth][layer]{k, v}[kv_heads * head_dim], its
// inputs the norm without gain. A target's gain scales the columns of its weights, and W norm_bias + b is its bias.
struct Product {
  int64_t row, head_dim, targets;  // row: floats of K or V
  fth::WeightShape weight;
  fth::backfill::Turn turn;
  bool stores;  // a device's kernel that ends in the pool, and has K's rows in an order of its own

  Product(const fth_context* ctx, const fth_backfill_shape& s, const fth_kv_shape& kv)
      : row(int64_t(kv.kv_heads) * kv.head_dim),
        head_dim(kv.head_dim),
        targets(int64_t(s.depths) * kv.layers),
        weight{s.hidden_size, targets * 2 * row, s.weight_type, false, FTH_ON_DEVICE(ctx)},
        turn{s.rope_style == FTH_ROPE_NONE ? 0 : s.rotary_dim / 2, s.rope_style == FTH_ROPE_INTERLEAVED},
        stores(FTH_ON_DEVICE(ctx) && ctx->device->wgmma() &&
               fth::backfill::cuda::takes(s.weight_type, fth::pool_of(ctx, kv, nullptr), turn)) {}
  // Which row of wk or wv a target's row number r of K or V is.
  int64_t source_row(int64_t r, bool v) const {
    const int64_t place = r % head_dim;
    return FATHOM_WITH_CUDA && stores && !v ? r - place + fth::backfill::cuda::dim_at(turn, int(place)) : r;
  }
  int64_t bias_offset() const { return fth::round_up(weight.bytes(), 4); }
  int64_t bytes() const { return bias_offset() + weight.out * 4; }
  size_t alignment() const { return weight.alignment() < sizeof(float) ? sizeof(float) : weight.alignment(); }
};

bool check_shape(Check& check, const fth_backfill_shape* s, const fth_kv_shape* kv) {
  if (!check.array("shape", s) || !check.array("kv", kv) || !fth::check_kv(check, "kv", *kv)) return false;
  check.range("shape.hidden_size", s->hidden_size, 1, fth::kMostFeatures);
  check.range("shape.depths", s->depths, 1, 65536);
  fth::check_weight_type(check, s->weight_type);
  check.range("shape.norm", s->norm, -1, FTH_LAYER_NORM);
  check.range("shape.rope_style", s->rope_style, FTH_ROPE_NONE, FTH_ROPE_INTERLEAVED);
  check.range("shape.rotary_dim", s->rotary_dim, 0, kv->head_dim);
  check.that(s->rotary_dim % 2 == 0, "shape.rotary_dim must be even, got %d", s->rotary_dim);
  check.that(s->norm_eps >= 0 && s->norm_eps < 1e30f, "shape.norm_eps must be a finite number >= 0, got %g",
             double(s->norm_eps));
  check.range("shape.reserved", s->reserved, 0, 0);
  const int64_t targets = int64_t(s->depths) * kv->layers, row = int64_t(kv->kv_heads) * kv->head_dim;
  check.that(targets <= fth::kMostFeatures / (2 * row),
             "shape.depths * kv.layers * 2 * kv.kv_heads * kv.head_dim must be at most %lld",
             (long long)fth::kMostFeatures);
  return check.ok();
}

// Sources of a packing as the host reads them.
struct Sources {
  int32_t type;
  const void *w, *b;
  const float *gain, *norm_bias;
};
// Scratch for it.
struct FoldScratch {
  static constexpr int64_t kRows = fth::linear::kPanel;  // of W at once
  size_t rows, raw, given_bias, bias, gain, norm_bias;
  FoldScratch(fth::Layout& layout, const Product& product)
      : rows(layout.add<float>(kRows * product.weight.in)),
        raw(layout.add<float>(kRows * product.weight.in + product.row)),
        given_bias(layout.add<float>(product.row)),
        bias(layout.add<float>(product.row)),
        gain(layout.add<float>(product.weight.in)),
        norm_bias(layout.add<float>(product.weight.in)) {}
};

// Packs w [rows, in] * gain as the rows of K or V of a target, and their biases w . norm_bias + b. False without
// memory.
bool pack_folded(fth_context* ctx, const Product& product, int64_t target, bool v, const Sources& s,
                 const FoldScratch& at, char* scratch, char* packed) {
  const int64_t in = product.weight.in, first = (2 * target + (v ? 1 : 0)) * product.row;
  float *folded = reinterpret_cast<float*>(scratch + at.rows), *bias = reinterpret_cast<float*>(scratch + at.bias);
  float* given = reinterpret_cast<float*>(scratch + at.given_bias);
  for (int64_t r = 0; r < product.row; r++) given[r] = 0;
  const int64_t bias_bytes = fth::source_bytes(s.type, product.row);
  if (s.b != nullptr)
    fth::convert(s.type, fth::host_source(ctx, s.b, bias_bytes, scratch + at.raw), product.row, 1.f, given);
  for (int64_t begin = 0; begin < product.row; begin += at.kRows) {
    const int64_t rows = product.row - begin < at.kRows ? product.row - begin : at.kRows;
    int64_t run;  // of neighbours in the source
    for (int64_t r = 0; r < rows; r += run) {
      const int64_t from = product.source_row(begin + r, v);
      for (run = 1; r + run < rows && product.source_row(begin + r + run, v) == from + run;) run++;
      const char* source = static_cast<const char*>(s.w) + from * in * fth::element_bytes(s.type);
      fth::convert(s.type, fth::host_source(ctx, source, run * fth::source_bytes(s.type, in), scratch + at.raw),
                   run * in, 1.f, folded + r * in);
    }
    for (int64_t r = 0; r < rows; r++) {
      double sum = double(given[product.source_row(begin + r, v)]);
      for (int64_t k = 0; k < in; k++) {
        if (s.norm_bias != nullptr) sum += double(folded[r * in + k]) * double(s.norm_bias[k]);
        if (s.gain != nullptr) folded[r * in + k] *= s.gain[k];
      }
      bias[begin + r] = float(sum);
    }
    if (!fth::pack_rows(ctx, product.weight, first + begin, rows, 1.f, FTH_F32, folded, packed)) return false;
  }
  return fth::convert(ctx, FTH_F32, bias, product.row, 1.f,
                      reinterpret_cast<float*>(packed + product.bias_offset()) + first);
}

}  // namespace

extern "C" {

fth_status fth_backfill_bytes(fth_context* ctx, const fth_backfill_shape* shape, const fth_kv_shape* kv,
                              int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape, kv) || !check.array("bytes", bytes)) return check.status();
  *bytes = Product(ctx, *shape, *kv).bytes();
  return FTH_OK;
}

fth_status fth_backfill_pack(fth_context* ctx, const fth_backfill_shape* shape, const fth_kv_shape* kv, int32_t depth,
                             int32_t layer, int32_t source_type, const void* wk, const void* wv, const void* bk,
                             const void* bv, const float* gain, const float* norm_bias, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape, kv)) return check.status();
  const Product product(ctx, *shape, *kv);
  check.range("depth", depth, 0, shape->depths - 1);
  check.range("layer", layer, 0, kv->layers - 1);
  check.range("source_type", source_type, FTH_F32, FTH_F16);
  if (!check.ok()) return check.status();
  const int64_t element = fth::element_bytes(source_type), in = shape->hidden_size;
  check.pointer("wk", wk, size_t(element));
  check.pointer("wv", wv, size_t(element));
  check.pointer("bk", bk, size_t(element), false);
  check.pointer("bv", bv, size_t(element), false);
  check.array("gain", gain, false);
  check.array("norm_bias", norm_bias, false);
  check.that(shape->norm >= 0 || gain == nullptr, "gain must be null when shape.norm is -1");
  check.that(shape->norm >= 0 || norm_bias == nullptr, "norm_bias must be null when shape.norm is -1");
  check.pointer("packed", packed, product.alignment());
  check.disjoint({{"wk", wk, product.row * in * element},
                  {"wv", wv, product.row * in * element},
                  {"bk", bk, product.row * element},
                  {"bv", bv, product.row * element},
                  {"gain", gain, in * 4},
                  {"norm_bias", norm_bias, in * 4}},
                 {{"packed", packed, product.bytes()}});
  if (!check.ok()) return check.status();

  fth::Layout layout;
  const FoldScratch at(layout, product);
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr) return FTH_OUT_OF_MEMORY;
  const auto vector = [&](const float* source, size_t room) {
    return static_cast<const float*>(fth::host_source(ctx, source, in * 4, scratch + room));
  };
  const float *gains = vector(gain, at.gain), *biases = vector(norm_bias, at.norm_bias);
  const int64_t target = int64_t(depth) * kv->layers + layer;
  char* to = static_cast<char*>(packed);
  if (!pack_folded(ctx, product, target, false, {source_type, wk, bk, gains, biases}, at, scratch, to) ||
      !pack_folded(ctx, product, target, true, {source_type, wv, bv, gains, biases}, at, scratch, to))
    return FTH_OUT_OF_MEMORY;
  return fth::finish(ctx);
}

fth_status fth_backfill(fth_context* ctx, const fth_backfill_shape* shape, const fth_kv_shape* kv, int64_t count,
                        const fth_row* rows, const float* h, const void* packed, const float* frequency,
                        const int32_t* entry, void* pool) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape, kv)) return check.status();
  const Product product(ctx, *shape, *kv);
  const fth::WeightShape& weight = product.weight;
  check.range("count", count, 0, fth::kMostRows / shape->depths);
  const bool any = count > 0, turns = shape->rope_style != FTH_ROPE_NONE && shape->rotary_dim > 0;
  check.array("rows", rows, any && turns);
  check.array("h", h, any);
  check.pointer("packed", packed, product.alignment(), any);
  check.array("frequency", frequency, any && turns);
  check.array("entry", entry, any);
  check.pointer("pool", pool, fth::pool_alignment(ctx), any && kv->entries > 0);
  if (!check.ok() || !any) return check.status();
  check.disjoint({{"rows", rows, count * int64_t(sizeof(fth_row))},
                  {"h", h, count * weight.in * 4},
                  {"packed", packed, product.bytes()},
                  {"frequency", frequency, shape->rotary_dim / 2 * 4},
                  {"entry", entry, count * shape->depths * 4}},
                 {{"pool", pool, fth::pool_bytes(ctx, *kv)}});
  const fth::Entries entries{"entry", "", entry, 1, count * shape->depths};
  if (!fth::check_entries(check, entries, kv->entries)) return check.status();

  // Rows go in slabs: enough of them that a weight is read rarely, while their products, if they are stored, stay about
  // 16 MiB.
  constexpr int64_t kSlabFloats = 4 << 20, kLeast = 32, kMost = 4096, kBlock = 16;
  int64_t slab = product.stores ? kMost : kSlabFloats / weight.out;
  slab = slab < kLeast ? kLeast : slab > kMost ? kMost : slab;
  if (slab > count) slab = count;
  check.on_host({{"rows", rows}, {"entry", entry}});
  check.on_device({{"h", h}, {"packed", packed}, {"frequency", turns ? frequency : nullptr}, {"pool", pool}});
  if (!check.ok()) return check.status();
  fth::Layout host, layout;
  const size_t words_at = host.add<int32_t>(fth::check_distinct_words(entries.count));
  const fth::InputScratch input_at(layout, weight.in, weight.type, slab, shape->norm >= 0, false);
  const size_t table_at = layout.add<float>(turns ? fth::rope_table_floats(shape->rotary_dim, slab) : 0);
  const size_t y_at = layout.add<float>(product.stores ? 0 : slab * weight.out);
  fth::Scratch room;
  if (!fth::reserve(ctx, host, layout, &room)) return FTH_OUT_OF_MEMORY;
  if (!fth::check_distinct(check, entries, reinterpret_cast<int32_t*>(room.host + words_at))) return check.status();
  if (const fth_status status =
          fth::stage(ctx, {fth::staged("rows", rows, turns ? count : 0), fth::staged("entry", entry, entries.count)}))
    return status;
  char* scratch = room.kernels;
  float *table = reinterpret_cast<float*>(scratch + table_at), *y = reinterpret_cast<float*>(scratch + y_at);
  const auto turn = fth::rope_kernel(ctx);

  for (int64_t first = 0; first < count; first += slab) {
    const int64_t n = count - first < slab ? count - first : slab;
    if (turns) fth::rope_table(ctx, n, rows + first, frequency, shape->rotary_dim, table);
    fth::norm::Args norm{};
    norm.x = h + first * weight.in;
    norm.width = weight.in;
    norm.eps = shape->norm_eps;
    norm.layer = shape->norm == FTH_LAYER_NORM;
    fth::LinearCall linear{};
    linear.product.type = weight.type;
    linear.product.weight = packed;
    linear.product.k = weight.in;
    linear.product.n = weight.out;
    linear.product.x = fth::product_input(ctx, norm, shape->norm >= 0, weight.type, n, input_at, scratch).x;
    linear.product.x_bytes = fth::x_bytes(weight.in, weight.type);
    linear.product.count = n;
    linear.product.bias = reinterpret_cast<const float*>(static_cast<const char*>(packed) + product.bias_offset());
    const fth::kv::Pool to = fth::pool_of(ctx, *kv, pool);
    const int32_t* entries_of_rows = entry + first * shape->depths;
    if (FTH_ON_DEVICE(ctx) && product.stores) {
      fth::backfill::cuda::product(linear.product, {to, entries_of_rows, shape->depths, product.turn, table},
                                   ctx->device->workspace(), ctx->device->stream());
      continue;
    }
    linear.product.y = y;
    linear.product.y_stride = weight.out;
    fth::run_linears(ctx, &linear, 1);

    const auto write = [&](int64_t target) {
      return fth::kv::Args{to, target % kv->layers, entries_of_rows + target / kv->layers, shape->depths};
    };
    const auto turning = [&](float* k) {
      return fth::rope::Args{table, k, weight.out, kv->kv_heads, kv->head_dim, product.turn.pairs,
                             product.turn.interleaved};
    };
    if (FTH_ON_DEVICE(ctx)) {
      fth::rope::Args all = turning(y);
      all.sets = product.targets;
      all.set_stride = 2 * product.row;
      if (turns) fth::run_rope(ctx, n, all);
      fth::kv::cuda::write(write(0), n, y, y + product.row, weight.out, ctx->device->queue(),
                           {product.targets, 2 * product.row});
      continue;
    }
    // Blocks of rows of one target: neighbouring entries share cache lines of the pool.
    const int64_t blocks = fth::ceil_div(n, kBlock);
    const auto store = [&](int64_t begin, int64_t end, int) {
      for (int64_t item = begin; item < end; item++) {
        const int64_t target = item / blocks, row = item % blocks * kBlock;
        const int64_t row_end = row + kBlock < n ? row + kBlock : n;
        float* k = y + target * 2 * product.row;
        if (turns) turn(turning(k), row, row_end);
        fth::kv_writer(ctx)(write(target), k, k + product.row, weight.out, row, row_end);
      }
    };
    fth::parallel(ctx, product.targets * blocks, 16384 / (kBlock * 2 * product.row), store);
  }
  return fth::finish(ctx);
}

}  // extern "C"
