#include "attention.h"

#include <math.h>

#include "kv.h"

namespace fth {
namespace {

using attention::Args;
using attention::Tile;
using attention::Workspace;

// Fewer (tile, part) items than this per worker: the pieces of a list are spread over the workers too.
constexpr int64_t kEnoughItems = 8;

struct Plan {
  Layout layout;
  size_t tiles, workspaces, totals, states;
  int64_t tile_rows;  // most rows of a tile
  int64_t state;      // floats of a state
  int64_t slots;      // states in flight when pieces are spread
};

Plan plan(const fth_context* ctx, const Args& a, int64_t count) {
  Plan p;
  const int64_t group = a.heads / a.kv_heads;
  p.tile_rows = attention::kVectors / group < 1 ? 1 : attention::kVectors / group;
  const int64_t rows = p.tile_rows < count ? p.tile_rows : count;
  p.state = round_up(attention::state_floats(a, rows * ceil_div(group, attention::parts_per_group(a))), 16);
  const int64_t items = kEnoughItems * ctx->info.workers;
  p.slots = ctx->info.workers == 1 ? 0 : 3 * items;
  p.tiles = p.layout.add<Tile>(count);
  p.workspaces = p.layout.add<Workspace>(ctx->info.workers);
  p.totals = p.layout.add<float>(p.slots == 0 ? 0 : p.state * items);
  p.states = p.layout.add<float>(p.state * p.slots);
  return p;
}

// Rows of one list that follow one another, in tiles of at most `most` rows.
int64_t make_tiles(const Args& a, int64_t count, int64_t most, Tile* tiles) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++) {
    const fth_row& row = a.rows[i];
    const bool same = i > 0 && tiles[n - 1].rows < most &&
                      (a.masked ? row.sequence == a.rows[i - 1].sequence : row.list == a.rows[i - 1].list);
    if (!same) tiles[n++] = {int32_t(i), 0, INT32_MAX, 0};
    Tile& tile = tiles[n - 1];
    tile.rows++;
    if (row.start < row.visible) {
      if (row.start < tile.begin) tile.begin = row.start;
      if (row.visible > tile.end) tile.end = row.visible;
    }
  }
  return n;
}

struct Kernels {
  attention::Whole* whole;
  attention::Piece* piece;  // null: pieces cannot be spread
  attention::Merge* merge;
  attention::Finish* finish;
};

Kernels kernels(const fth_context* ctx, int32_t kv_type) {
  namespace k = attention;
  if (ctx->info.isa == FTH_ISA_AVX512 && kv_type == FTH_BF16 && ctx->info.bf16_dot)
    return {k::avx512bf16::whole, k::avx512bf16::piece, k::avx512::merge, k::avx512::finish};
  if (ctx->info.isa == FTH_ISA_AVX512 && kv_type == FTH_I8 && ctx->info.int8_dot)
    return {k::avx512vnni::whole, k::avx512vnni::piece, k::avx512::merge, k::avx512::finish};
  if (ctx->info.isa == FTH_ISA_AVX512) return {k::avx512::whole, k::avx512::piece, k::avx512::merge, k::avx512::finish};
  if (ctx->info.isa == FTH_ISA_AVX2) return {k::avx2::whole, k::avx2::piece, k::avx2::merge, k::avx2::finish};
  return {k::scalar::whole, nullptr, nullptr, nullptr};
}

// Pieces in rounds: all workers compute states, then each item's states merge in list order.
void spread(fth_context* ctx, const Args& a, const Plan& p, const Kernels& kernel, const Tile* tiles, int64_t items,
            char* scratch) {
  Workspace* workspaces = reinterpret_cast<Workspace*>(scratch + p.workspaces);
  float* totals = reinterpret_cast<float*>(scratch + p.totals);
  float* states = reinterpret_cast<float*>(scratch + p.states);
  const int64_t parts = attention::parts(a), width = p.slots / items;
  int64_t most = 0;
  const auto first_piece = [](const Tile& t) { return t.begin / attention::kPiece; };
  const auto pieces = [&](const Tile& t) {
    return t.begin < t.end ? ceil_div(t.end, attention::kPiece) - first_piece(t) : 0;
  };
  for (int64_t i = 0; i < items / parts; i++) most = pieces(tiles[i]) > most ? pieces(tiles[i]) : most;

  for (int64_t done = 0; done < most; done += width) {
    const int64_t round = most - done < width ? most - done : width;
    parallel(ctx, items * round, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t item = i / round, piece = done + i % round;
        const Tile& tile = tiles[item / parts];
        if (piece < pieces(tile))
          kernel.piece(a, tile, item % parts, first_piece(tile) + piece, workspaces[worker],
                       states + (item * width + i % round) * p.state);
      }
    });
    parallel(ctx, items, ceil_div(items, ctx->info.workers), [&](int64_t begin, int64_t end, int) {
      for (int64_t item = begin; item < end; item++) {
        const Tile& tile = tiles[item / parts];
        const int64_t left = pieces(tile) - done, n = left < round ? left : round;
        kernel.merge(a, tile, item % parts, states + item * width * p.state, p.state, n < 0 ? 0 : n, done == 0,
                     totals + item * p.state);
        if (done + round == most) kernel.finish(a, tile, item % parts, totals + item * p.state);
      }
    });
  }
}

}  // namespace

bool check_lists(Check& check, const char* name, const fth_row* rows, int64_t count, const int32_t* entries,
                 int64_t entry_count, int64_t pool_entries) {
  if (!check.ok()) return false;
  int64_t begin = 0, end = 0;  // items of the current list that its rows see
  for (int64_t i = 0; i < count; i++) {
    const fth_row& row = rows[i];
    const bool sane = row.visible >= 0 && row.start >= 0 && row.list >= 0 && row.list <= entry_count &&
                      row.visible <= entry_count - row.list;
    if (!sane) {
      const long long at = i;
      check.that(row.visible >= 0, "%s[%lld].visible must be at least 0, got %d", name, at, row.visible);
      check.that(row.start >= 0, "%s[%lld].start must be at least 0, got %d", name, at, row.start);
      return check.that(false, "%s[%lld].list and visible must stay inside the %lld entries, got list %lld with %d "
                        "visible", name, at, (long long)entry_count, (long long)row.list, row.visible);
    }
    const bool same = i > 0 && row.list == rows[i - 1].list;
    if (!same) begin = end = 0;
    if (row.start >= row.visible) continue;
    // What earlier rows of the list saw is one range [begin, end); look at what this row adds on either side.
    if (begin == end) begin = end = row.start;
    const int64_t from = row.start < begin ? row.start : end, to = row.visible > end ? row.visible : begin;
    const int32_t* list = entries + row.list;
    for (int64_t item = from; item < to; item++)
      if (list[item] < 0 || list[item] >= pool_entries)
        return check.that(false, "entries[%lld] must be in 0..%lld, got %d", (long long)(row.list + item),
                          (long long)pool_entries - 1, list[item]);
    begin = row.start < begin ? row.start : begin;
    end = row.visible > end ? row.visible : end;
  }
  return true;
}

size_t attention_scratch_bytes(const fth_context* ctx, int64_t heads, int64_t kv_heads, int64_t head_dim,
                               int64_t count) {
  Args a{};
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  if (FTH_ON_DEVICE(ctx)) return attention::cuda::scratch_bytes(a, count, ctx->info.multiprocessors);
  return plan(ctx, a, count).layout.bytes();
}

void plan_attention(fth_context* ctx, const Args& a, int64_t count, char* scratch) {
  if (count > 0 && FTH_ON_DEVICE(ctx))
    attention::cuda::plan(a, count, ctx->info.multiprocessors, scratch, ctx->device->queue());
}

void run_attention(fth_context* ctx, const Args& a, int64_t count, char* scratch) {
  if (count == 0) return;
  if (FTH_ON_DEVICE(ctx))
    return attention::cuda::run(a, count, ctx->info.multiprocessors, scratch, ctx->device->queue());
  const Plan p = plan(ctx, a, count);
  Tile* tiles = reinterpret_cast<Tile*>(scratch + p.tiles);
  Workspace* workspaces = reinterpret_cast<Workspace*>(scratch + p.workspaces);
  const int64_t parts = attention::parts(a), items = make_tiles(a, count, p.tile_rows, tiles) * parts;
  const Kernels kernel = kernels(ctx, a.kv_type);
  if (kernel.piece != nullptr && items < kEnoughItems * ctx->info.workers && ctx->info.workers > 1)
    return spread(ctx, a, p, kernel, tiles, items, scratch);
  parallel(ctx, items, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; i++) kernel.whole(a, tiles[i / parts], i % parts, workspaces[worker]);
  });
}

}  // namespace fth

namespace {

using fth::Check;

// What both forms share. `keys`: most items that a row may see, for the width of a dense bias.
bool check_shape(Check& check, const fth_attention_shape& s, int64_t kv_heads, int64_t count) {
  check.range("shape.heads", s.heads, 1, 65536);
  if (!check.ok()) return false;
  check.that(s.heads % kv_heads == 0, "shape.heads must be a multiple of kv.kv_heads (%lld), got %d",
             (long long)kv_heads, s.heads);
  check.range("shape.bias_kind", s.bias_kind, FTH_BIAS_NONE, FTH_BIAS_DENSE);
  if (s.bias_kind == FTH_BIAS_NONE) check.range("shape.bias_width", s.bias_width, 0, 0);
  else check.at_least("shape.bias_width", s.bias_width, 1);
  check.finite("shape.scale", s.scale);
  check.range("shape.reserved", s.reserved, 0, 0);
  check.range("count", count, 0, INT32_MAX / 64);
  return check.ok();
}

bool check_buffers(Check& check, const fth_attention_shape& s, int64_t head_dim, int64_t count, const fth_row* rows,
                   const float* q, const float* bias, const float* out) {
  check.array("rows", rows);
  check.array("q", q);
  check.array("out", out);
  check.array("bias", bias, s.bias_kind != FTH_BIAS_NONE);
  check.that(bias == nullptr || s.bias_kind != FTH_BIAS_NONE, "bias must be null without shape.bias_kind");
  const int64_t bytes = count * s.heads * head_dim * 4;
  const int64_t bias_rows = s.bias_kind == FTH_BIAS_DENSE ? count * s.heads : s.heads;
  if (!check.that(bias_rows <= (int64_t(1) << 56) / 4 / (s.bias_width + 1), "bias must have at most 2^56 bytes"))
    return false;
  check.disjoint("rows", rows, count * int64_t(sizeof(fth_row)), "out", out, bytes);
  check.disjoint("q", q, bytes, "out", out, bytes);
  check.disjoint("bias", bias, bias_rows * s.bias_width * 4, "out", out, bytes);
  return check.ok();
}

bool check_dense_bias(Check& check, const fth_attention_shape& s, int64_t count, const fth_row* rows) {
  for (int64_t i = 0; i < count && s.bias_kind == FTH_BIAS_DENSE && check.ok(); i++)
    check.that(rows[i].visible <= s.bias_width, "rows[%lld].visible must be at most shape.bias_width %d, got %d",
               (long long)i, s.bias_width, rows[i].visible);
  return check.ok();
}

fth::attention::Args args_of(const fth_attention_shape& s, int64_t kv_heads, int64_t head_dim, int32_t kv_type,
                             const fth_row* rows, const float* q, const float* bias, float* out) {
  fth::attention::Args a{};
  a.rows = rows;
  a.heads = s.heads;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  a.scale = s.scale;
  a.q = q;
  a.out = out;
  a.q_stride = a.out_stride = s.heads * head_dim;
  a.kv_type = kv_type;
  a.bias_kind = s.bias_kind;
  a.bias_center = s.bias_center;
  a.bias_width = s.bias_width;
  a.bias = bias;
  return a;
}

fth_status run(fth_context* ctx, const fth::attention::Args& a, int64_t count) {
  char* scratch = ctx->reserve_device(fth::attention_scratch_bytes(ctx, a.heads, a.kv_heads, a.head_dim, count));
  if (scratch == nullptr) return FTH_OUT_OF_MEMORY;
  fth::plan_attention(ctx, a, count, scratch);
  fth::run_attention(ctx, a, count, scratch);
  return fth::finish(ctx);
}

}  // namespace

extern "C" {

fth_status fth_attention(fth_context* ctx, const fth_attention_shape* shape, const fth_kv_shape* kv, int32_t layer,
                         int64_t count, const fth_row* rows, const float* q, const int32_t* entries,
                         int64_t entry_count, const void* pool, const int32_t* entry_position, const float* bias,
                         float* out) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check.array("shape", shape) || !check.array("kv", kv) || !fth::check_kv(check, "kv", *kv, layer) ||
      !check_shape(check, *shape, kv->kv_heads, count))
    return check.status();
  check.range("entry_count", entry_count, 0, int64_t(1) << 48);
  check.array("entries", entries, count > 0 && entry_count > 0);
  check.pointer("pool", pool, fth::pool_alignment(ctx), count > 0 && entry_count > 0);
  check.array("entry_position", entry_position, false);
  if (!check.ok() || count == 0) return check.status();
  if (!check_buffers(check, *shape, kv->head_dim, count, rows, q, bias, out)) return check.status();
  const int64_t bytes = count * shape->heads * kv->head_dim * 4;
  check.disjoint("entries", entries, entry_count * 4, "out", out, bytes);
  check.disjoint("pool", pool, fth::pool_bytes(ctx, *kv), "out", out, bytes);
  check.disjoint("entry_position", entry_position, kv->entries * 4, "out", out, bytes);
  check.on_host({{"rows", rows}, {"entries", entries}});
  check.on_device({{"q", q}, {"pool", pool}, {"entry_position", entry_position}, {"bias", bias}, {"out", out}});
  if (!fth::check_lists(check, "rows", rows, count, entries, entry_count, kv->entries) ||
      !check_dense_bias(check, *shape, count, rows))
    return check.status();
  if (const fth_status status =
          fth::stage(ctx, {fth::staged("rows", rows, count), fth::staged("entries", entries, entry_count)}))
    return status;

  fth::attention::Args a = args_of(*shape, kv->kv_heads, kv->head_dim, kv->type, rows, q, bias, out);
  a.entries = entries;
  a.entry_position = entry_position;
  a.pool = fth::pool_of(ctx, *kv, pool);
  a.layer = layer;
  return run(ctx, a, count);
}

fth_status fth_attention_masked(fth_context* ctx, const fth_attention_shape* shape, const fth_dense_kv_shape* kv,
                                int64_t count, const fth_row* rows, const float* q, const void* k, const void* v,
                                const int32_t* reach, const float* bias, float* out) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check.array("shape", shape) || !check.array("kv", kv)) return check.status();
  check.that(kv->type == FTH_F32 || kv->type == FTH_BF16, "kv.type must be FTH_F32 or FTH_BF16, got %d", kv->type);
  if (!check.ok()) return check.status();
  const fth_kv_shape tiles{1, kv->kv_heads, kv->head_dim, kv->type, 0};
  if (!fth::check_kv(check, "kv", tiles, 0) || !check_shape(check, *shape, kv->kv_heads, count)) return check.status();
  check.at_least("kv.sequences", kv->sequences, 0);
  check.at_least("kv.tokens", kv->tokens, 0);
  check.range("kv.reserved", kv->reserved, 0, 0);
  check.range("kv.sequence_stride", kv->sequence_stride, 0, int64_t(1) << 48);
  check.range("kv.token_stride", kv->token_stride, 0, int64_t(1) << 48);
  check.range("kv.head_stride", kv->head_stride, 0, int64_t(1) << 48);
  check.that(int64_t(kv->sequences) * kv->tokens <= int64_t(1) << 54, "kv.sequences * kv.tokens must be at most 2^54");
  const bool any = count > 0 && kv->sequences > 0 && kv->tokens > 0;
  const size_t element = kv->type == FTH_BF16 ? 2 : 4;
  check.pointer("k", k, element, any);
  check.pointer("v", v, element, any);
  check.array("reach", reach, any);
  if (!check.ok() || count == 0) return check.status();
  if (!check_buffers(check, *shape, kv->head_dim, count, rows, q, bias, out)) return check.status();
  const __int128 last = __int128(kv->sequences - 1) * kv->sequence_stride +
                        __int128(kv->tokens - 1) * kv->token_stride + __int128(kv->kv_heads - 1) * kv->head_stride +
                        kv->head_dim;
  check.that(last <= (int64_t(1) << 56), "kv's strides describe more than 2^56 elements");
  const int64_t bytes = count * shape->heads * kv->head_dim * 4,
                dense_bytes = any ? int64_t(last) * int64_t(element) : 0;
  check.disjoint("k", k, dense_bytes, "out", out, bytes);
  check.disjoint("v", v, dense_bytes, "out", out, bytes);
  check.disjoint("reach", reach, int64_t(kv->sequences) * kv->tokens * 4, "out", out, bytes);
  check.on_host({{"rows", rows}});
  check.on_device({{"q", q}, {"k", k}, {"v", v}, {"reach", reach}, {"bias", bias}, {"out", out}});
  for (int64_t i = 0; i < count && check.ok(); i++) {
    const fth_row& row = rows[i];
    const long long at = i;
    check.that(row.sequence >= 0 && row.sequence < kv->sequences, "rows[%lld].sequence must be in 0..%d, got %d", at,
               kv->sequences - 1, row.sequence);
    check.that(row.visible >= 0 && row.visible <= kv->tokens, "rows[%lld].visible must be in 0..%d, got %d", at,
               kv->tokens, row.visible);
    check.that(row.start >= 0, "rows[%lld].start must be at least 0, got %d", at, row.start);
    check.that(row.depth >= 0, "rows[%lld].depth must be at least 0, got %d", at, row.depth);
  }
  if (!check.ok() || !check_dense_bias(check, *shape, count, rows)) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("rows", rows, count)})) return status;

  fth::attention::Args a = args_of(*shape, kv->kv_heads, kv->head_dim, kv->type, rows, q, bias, out);
  a.masked = true;
  a.k = k;
  a.v = v;
  a.sequence_stride = kv->sequence_stride;
  a.token_stride = kv->token_stride;
  a.head_stride = kv->head_stride;
  a.reach = reach;
  a.tokens = kv->tokens;
  return run(ctx, a, count);
}

}  // extern "C"
