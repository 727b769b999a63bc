#include "kv.h"

#include <string.h>

namespace fth {
namespace {

uint64_t table_size(int64_t count) {
  uint64_t size = 16;
  while (size < 2 * uint64_t(count)) size *= 2;
  return size;
}

}  // namespace

bool check_kv_type(Check& check, const char* prefix, const char* field, int32_t type) {
  return check.that(type == FTH_F32 || type == FTH_BF16 || type == FTH_I8,
                    "%s%s must be FTH_F32, FTH_BF16 or FTH_I8, got %d", prefix, field, type);
}

bool check_kv(Check& check, const char* name, const fth_kv_shape& s, int32_t layer) {
  check.that(s.layers >= 1 && s.layers <= 65536, "%s.layers must be in 1..65536, got %d", name, s.layers);
  check.that(s.kv_heads >= 1 && s.kv_heads <= 65536, "%s.kv_heads must be in 1..65536, got %d", name, s.kv_heads);
  check.that(s.head_dim >= 16 && s.head_dim <= kv::kMostHeadDim && s.head_dim % 8 == 0,
             "%s.head_dim must be a multiple of 8 in 16..256, got %d", name, s.head_dim);
  check_kv_type(check, name, ".type", s.type);
  check.that(s.entries >= 0 && s.entries <= INT32_MAX && s.entries % kv::kPage == 0,
             "%s.entries must be a multiple of 64 in 0..%d, got %lld", name, INT32_MAX, (long long)s.entries);
  if (!check.ok()) return false;
  const kv::Pool pool = pool_of(check.context(), s, nullptr);
  const __int128 bytes = __int128(kv::page_bytes(pool)) * s.layers * s.kv_heads * (s.entries / kv::kPage);
  check.that(bytes <= (int64_t(1) << 56), "%s describes a pool of more than 2^56 bytes", name);
  check.that(layer >= 0 && layer < s.layers, "layer must be in 0..%d, got %d", s.layers - 1, layer);
  return check.ok();
}

kv::Pool pool_of(const fth_context* ctx, const fth_kv_shape& s, const void* data) {
  // The pool is written only through calls that were given it writable.
  return {static_cast<char*>(const_cast<void*>(data)),
          s.layers,
          s.kv_heads,
          s.entries / kv::kPage,
          s.head_dim,
          s.type,
          FTH_ON_DEVICE(ctx)};
}

int64_t pool_bytes(const fth_context* ctx, const fth_kv_shape& s) {
  return s.layers * s.kv_heads * (s.entries / kv::kPage) * kv::page_bytes(pool_of(ctx, s, nullptr));
}

bool check_entries(Check& check, const Entries& entry, int64_t entries) {
  if (!check.ok()) return false;
  for (int64_t i = 0; i < entry.count; i++)
    if (entry[i] < -1 || entry[i] >= entries)
      return check.that(false, "%s[%lld]%s must be -1 or in 0..%lld, got %d", entry.array, (long long)i, entry.field,
                        (long long)entries - 1, entry[i]);
  return true;
}

int64_t check_distinct_words(int64_t count) { return int64_t(table_size(count)); }

bool check_distinct(Check& check, const Entries& entry, int32_t* words) {
  const uint64_t size = table_size(entry.count);
  const int shift = __builtin_clzll(size) + 1;
  memset(words, -1, size * sizeof(int32_t));  // an open hash table; -1 is free
  for (int64_t i = 0; i < entry.count; i++) {
    if (entry[i] == -1) continue;
    uint64_t at = uint64_t(uint32_t(entry[i])) * 0x9E3779B97F4A7C15ull >> shift;
    for (; words[at] != -1; at = (at + 1) & (size - 1))
      if (words[at] == entry[i])
        return check.that(false, "%s[%lld]%s must be an entry no other row writes, got %d a second time", entry.array,
                          (long long)i, entry.field, entry[i]);
    words[at] = entry[i];
  }
  return true;
}

kv::Write* kv_writer(const fth_context* ctx) {
  return ctx->info.isa == FTH_ISA_AVX512 ? kv::avx512::write
         : ctx->info.isa == FTH_ISA_AVX2 ? kv::avx2::write
                                         : kv::scalar::write;
}

void run_kv_write(fth_context* ctx, const kv::Args& args, int64_t count, const float* k, const float* v,
                  int64_t stride) {
  if (count == 0) return;
  if (FTH_ON_DEVICE(ctx)) return kv::cuda::write(args, count, k, v, stride, ctx->device->queue());
  const int64_t row = args.pool.kv_heads * args.pool.head_dim;
  const int64_t some = 16384 / row, grain = some > kv::kPage ? some : kv::kPage;  // few runs of entries are cut
  kv::Write* write = kv_writer(ctx);
  parallel(ctx, count, grain, [&](int64_t begin, int64_t end, int) { write(args, k, v, stride, begin, end); });
}

}  // namespace fth

extern "C" {

fth_status fth_kv_bytes(fth_context* ctx, const fth_kv_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  check.array("shape", shape);
  check.array("bytes", bytes);
  if (!check.ok() || !fth::check_kv(check, "shape", *shape)) return check.status();
  *bytes = fth::pool_bytes(ctx, *shape);
  return FTH_OK;
}

fth_status fth_kv_write(fth_context* ctx, const fth_kv_shape* shape, int32_t layer, int64_t count, const fth_row* rows,
                        const float* k, const float* v, void* pool) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("shape", shape) || !fth::check_kv(check, "shape", *shape, layer)) return check.status();
  check.range("count", count, 0, INT32_MAX);
  const bool any = count > 0;
  check.array("rows", rows, any);
  check.array("k", k, any);
  check.array("v", v, any);
  check.pointer("pool", pool, fth::pool_alignment(ctx), any && shape->entries > 0);
  if (!check.ok() || !any) return check.status();
  const int64_t row = int64_t(shape->kv_heads) * shape->head_dim, bytes = count * row * 4,
                pool_bytes = fth::pool_bytes(ctx, *shape);
  check.disjoint("rows", rows, count * int64_t(sizeof(fth_row)), "pool", pool, pool_bytes);
  check.disjoint("k", k, bytes, "pool", pool, pool_bytes);
  check.disjoint("v", v, bytes, "pool", pool, pool_bytes);
  check.on_host({{"rows", rows}});
  check.on_device({{"k", k}, {"v", v}, {"pool", pool}});
  const fth::Entries entries = fth::entries_of(rows, count);
  if (!fth::check_entries(check, entries, shape->entries)) return check.status();

  fth::Layout layout;
  layout.add<int32_t>(fth::check_distinct_words(count));
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr) return FTH_OUT_OF_MEMORY;
  if (!fth::check_distinct(check, entries, reinterpret_cast<int32_t*>(scratch))) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("rows", rows, count)})) return status;
  fth::run_kv_write(ctx, {fth::pool_of(ctx, *shape, pool), layer, &rows->entry, fth::kRowWords}, count, k, v, row);
  return fth::finish(ctx);
}

fth_status fth_kv_read(fth_context* ctx, const fth_kv_shape* shape, int32_t layer, int64_t count, const int32_t* entry,
                       const void* pool, float* k, float* v) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("shape", shape) || !fth::check_kv(check, "shape", *shape, layer)) return check.status();
  check.range("count", count, 0, INT32_MAX);
  const bool any = count > 0;
  check.array("entry", entry, any);
  check.pointer("pool", pool, fth::pool_alignment(ctx), any);
  check.array("k", k, any);
  check.array("v", v, any);
  if (!check.ok() || !any) return check.status();
  const int64_t row = int64_t(shape->kv_heads) * shape->head_dim, bytes = count * row * 4,
                pool_bytes = fth::pool_bytes(ctx, *shape);
  check.disjoint("pool", pool, pool_bytes, "k", k, bytes);
  check.disjoint("pool", pool, pool_bytes, "v", v, bytes);
  check.disjoint("entry", entry, count * 4, "k", k, bytes);
  check.disjoint("entry", entry, count * 4, "v", v, bytes);
  check.disjoint("k", k, bytes, "v", v, bytes);
  check.on_host({{"entry", entry}});
  check.on_device({{"pool", pool}, {"k", k}, {"v", v}});
  if (!check.indices("entry", entry, count, shape->entries)) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("entry", entry, count)})) return status;
  const fth::kv::Args args{fth::pool_of(ctx, *shape, pool), layer, entry, 1};
  if (FTH_ON_DEVICE(ctx))
    fth::kv::cuda::read(args, count, k, v, ctx->device->stream());
  else
    fth::parallel(ctx, count, 16384 / row,
                  [&](int64_t begin, int64_t end, int) { fth::kv::scalar::read(args, k, v, begin, end); });
  return fth::finish(ctx);
}

}  // extern "C"
