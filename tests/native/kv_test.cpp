// The K,V pool: what is written is read back, nothing else is touched, bad arguments are refused.
#include "kv/kv.h"

#include "arguments.h"
#include "simd/scalar.h"

using test::Guarded;

static void round_trip(int32_t type, int32_t head_dim, int32_t kv_heads, int64_t count, int32_t workers) {
  test::Context ctx(FTH_ISA_AUTO, workers);
  test::Random random(uint64_t(head_dim + count));
  const fth_kv_shape shape{3, kv_heads, head_dim, type, 256};
  const int32_t layer = 1;
  int64_t bytes = 0;
  EXPECT_OK(ctx, fth_kv_bytes(ctx, &shape, &bytes));
  EXPECT(bytes >= 256 * 3 * int64_t(kv_heads) * head_dim * 2 * (type == FTH_BF16 ? 2 : 4));

  const int64_t row = int64_t(kv_heads) * head_dim;
  Guarded<char> pool(bytes), before(bytes);
  Guarded<float> k(count * row), v(count * row), k_back(count * row), v_back(count * row);
  Guarded<fth_row> rows(count);
  Guarded<int32_t> entry(count);
  memset(pool, 0x5a, size_t(bytes));
  before.copy_from(pool);
  random.fill(k, k.size());
  random.fill(v, v.size());
  for (int64_t i = 0; i < count; i++) {
    rows[i] = test::row();
    entry[i] = rows[i].entry = int32_t(i * 37 % 256);  // 37 is odd: no entry twice
  }
  EXPECT_OK(ctx, fth_kv_write(ctx, &shape, layer, count, rows, k, v, pool));
  EXPECT_OK(ctx, fth_kv_read(ctx, &shape, layer, count, entry, pool, k_back, v_back));
  for (int64_t i = 0; i < count * row; i++) {
    const bool bf16 = type == FTH_BF16;
    EXPECT(k_back[i] == (bf16 ? float_of_bf16(bf16_of_float(k[i])) : k[i]));
    EXPECT(v_back[i] == (bf16 ? float_of_bf16(bf16_of_float(v[i])) : v[i]));
  }

  // Each element went to one place: as many elements changed as were written, all in the layer's tiles.
  const int64_t width = type == FTH_BF16 ? 2 : 4;
  int64_t changed = 0, outside = 0;
  const fth::kv::Pool layout{pool, shape.layers, kv_heads, shape.entries / 64, head_dim, type == FTH_BF16};
  for (int64_t i = 0; i < bytes; i += width) {
    if (memcmp(pool + i, before + i, size_t(width)) == 0) continue;
    changed++;
    outside += i < fth::kv::tile(layout, 0, layer, 0) - pool || i >= fth::kv::tile(layout, 0, layer + 1, 0) - pool;
  }
  EXPECT(changed == 2 * count * row, "%lld of %lld", (long long)changed, (long long)(2 * count * row));
  EXPECT(outside == 0);
}

TEST(written_entries_are_read_back) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t head_dim : {16, 24, 64, 80, 128, 256})
      for (int64_t count : {1, 5, 200}) round_trip(type, head_dim, 1 + head_dim % 3, count, 1 + int32_t(count % 3));
}

TEST(rows_without_entry_write_nothing) {
  test::Context ctx;
  const fth_kv_shape shape{1, 1, 16, FTH_F32, 64};
  Guarded<char> pool(64 * 16 * 8), before(64 * 16 * 8);
  Guarded<float> k(32), v(32);
  Guarded<fth_row> rows(2);
  rows[0] = rows[1] = test::row();
  EXPECT_OK(ctx, fth_kv_write(ctx, &shape, 0, 2, rows, k, v, pool));
  EXPECT(memcmp(pool, before, size_t(pool.size())) == 0);
}

static void refuses_shapes(test::Arguments& a, fth_kv_shape* s) {
  a.range("shape.layers", s->layers, 1, 65536);
  a.range("shape.kv_heads", s->kv_heads, 1, 65536);
  for (int32_t head_dim : {0, 8, 20, 264})
    a.refused("shape.head_dim must be a multiple of 8 in 16..256, got", s->head_dim, head_dim);
  for (int32_t type : {-1, 2}) a.refused("shape.type must be 0 (f32) or 1 (bf16), got", s->type, type);
  for (int64_t entries : {int64_t(-64), int64_t(65), int64_t(1) << 31})
    a.refused("shape.entries must be a multiple of 64 in 0..2147483647, got", s->entries, entries);
  a.refused("shape describes a pool of more than 2^56 bytes", *s,
            fth_kv_shape{65536, 65536, 256, FTH_F32, INT32_MAX / 64 * 64});
}

TEST(keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t head_dim : {16, 24, 72}) {
      const int64_t row = 2 * head_dim;
      const fth_kv_shape kv{3, 2, head_dim, type, 64};
      int64_t count = 5;
      int32_t layer = 1;
      test::Arguments size, write, read;
      const auto size_shape = size.shape(kv);
      const auto bytes = size.output<int64_t>("bytes", 1);
      size.call = [&](fth_context* ctx) { return fth_kv_bytes(ctx, size_shape, bytes); };
      EXPECT_OK(size.ctx, size.call(size.ctx));
      const int64_t pool_bytes = bytes[0];

      const auto write_shape = write.shape(kv);
      const auto rows = write.input<fth_row>("rows", count);
      const auto k = write.input<float>("k", count * row);
      const auto v = write.input<float>("v", count * row);
      const auto pool = write.packed_output("pool", pool_bytes, 4);
      for (int32_t i = 0; i < count; i++) {
        rows[i] = test::row();
        rows[i].entry = i == 2 ? -1 : 63 - 9 * i;
      }
      write.random.fill(k, k.size());
      write.random.fill(v, v.size());
      write.call = [&](fth_context* ctx) { return fth_kv_write(ctx, write_shape, layer, count, rows, k, v, pool); };
      write.guards();

      const auto read_shape = read.shape(kv);
      const auto entry = read.input<int32_t>("entry", count);
      const auto source = read.packed("pool", pool_bytes, 4);
      const auto k_out = read.output<float>("k", count * row);
      const auto v_out = read.output<float>("v", count * row);
      for (int32_t i = 0; i < count; i++) entry[i] = i == 2 ? 0 : 63 - 9 * i;
      read.call = [&](fth_context* ctx) {
        return fth_kv_read(ctx, read_shape, layer, count, entry, source, k_out, v_out);
      };
      read.guards();

      if (head_dim != 24) continue;
      size.refusals();
      refuses_shapes(size, size_shape);
      for (test::Arguments* a : {&write, &read}) {
        a->refusals();
        a->nothing(count);
        a->range("count", count, 0, INT32_MAX);
        a->range("layer", layer, 0, 2);
      }
      refuses_shapes(write, write_shape);
      refuses_shapes(read, read_shape);
      for (int32_t bad : {-2, 64}) write.refused("rows[1].entry must be -1 or in 0..63, got", rows[1].entry, bad);
      write.refused("rows[4].entry must be an entry no other row writes, got 63 a second time", rows[4].entry, 63);
      read.range("entry[2]", entry[2], 0, 63);
    }
}
