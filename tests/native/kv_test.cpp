// The K,V pool: what is written is read back, nothing else is touched, bad arguments are refused.
#include "kv/kv.h"

#include "simd/scalar.h"
#include "test.h"

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

TEST(refuses_bad_arguments) {
  test::Context ctx;
  fth_kv_shape shape{2, 1, 16, FTH_F32, 64};
  Guarded<char> pool(2 * 64 * 16 * 8);
  Guarded<float> k(32), v(32);
  Guarded<fth_row> rows(2);
  Guarded<int32_t> entry(2);
  rows[0] = rows[1] = test::row();
  int64_t bytes = 0;
  rows[0].entry = rows[1].entry = 9;
  EXPECT_REFUSED(ctx, "rows[1].entry must be an entry no other row writes, got 9",
                 fth_kv_write(ctx, &shape, 0, 2, rows, k, v, pool));
  rows[1].entry = 64;
  EXPECT_REFUSED(ctx, "rows[1].entry must be -1 or in 0..63, got 64",
                 fth_kv_write(ctx, &shape, 0, 2, rows, k, v, pool));
  rows[1].entry = -2;
  EXPECT_REFUSED(ctx, "rows[1].entry", fth_kv_write(ctx, &shape, 0, 2, rows, k, v, pool));
  rows[1].entry = 8;
  EXPECT_REFUSED(ctx, "layer must be in 0..1, got 2", fth_kv_write(ctx, &shape, 2, 2, rows, k, v, pool));
  EXPECT_REFUSED(ctx, "layer", fth_kv_write(ctx, &shape, -1, 2, rows, k, v, pool));
  EXPECT_REFUSED(ctx, "count", fth_kv_write(ctx, &shape, 0, -1, rows, k, v, pool));
  EXPECT_REFUSED(ctx, "rows must not be null", fth_kv_write(ctx, &shape, 0, 2, nullptr, k, v, pool));
  EXPECT_REFUSED(ctx, "k must not be null", fth_kv_write(ctx, &shape, 0, 2, rows, nullptr, v, pool));
  EXPECT_REFUSED(ctx, "v must not be null", fth_kv_write(ctx, &shape, 0, 2, rows, k, nullptr, pool));
  EXPECT_REFUSED(ctx, "pool must not be null", fth_kv_write(ctx, &shape, 0, 2, rows, k, v, nullptr));
  EXPECT_REFUSED(ctx, "shape must not be null", fth_kv_write(ctx, nullptr, 0, 2, rows, k, v, pool));
  EXPECT_REFUSED(ctx, "must not overlap",
                 fth_kv_write(ctx, &shape, 0, 2, rows, reinterpret_cast<float*>(pool.get()), v, pool));
  entry[0] = 0;
  entry[1] = -1;
  EXPECT_REFUSED(ctx, "entry[1] must be in 0..63, got -1", fth_kv_read(ctx, &shape, 0, 2, entry, pool, k, v));
  EXPECT_REFUSED(ctx, "must not overlap", fth_kv_read(ctx, &shape, 0, 2, entry, pool, k, k + 8));
  EXPECT_REFUSED(ctx, "bytes must not be null", fth_kv_bytes(ctx, &shape, nullptr));
  for (int32_t head_dim : {0, 8, 20, 264}) {
    shape.head_dim = head_dim;
    EXPECT_REFUSED(ctx, "shape.head_dim must be a multiple of 8 in 16..256", fth_kv_bytes(ctx, &shape, &bytes));
  }
  shape = {2, 1, 16, FTH_F16, 64};
  EXPECT_REFUSED(ctx, "shape.type", fth_kv_bytes(ctx, &shape, &bytes));
  shape = {2, 1, 16, FTH_F32, 65};
  EXPECT_REFUSED(ctx, "shape.entries must be a multiple of 64", fth_kv_bytes(ctx, &shape, &bytes));
  shape = {0, 1, 16, FTH_F32, 64};
  EXPECT_REFUSED(ctx, "shape.layers", fth_kv_bytes(ctx, &shape, &bytes));
  shape = {1, 0, 16, FTH_F32, 64};
  EXPECT_REFUSED(ctx, "shape.kv_heads", fth_kv_bytes(ctx, &shape, &bytes));
  shape = {65536, 65536, 256, FTH_F32, INT32_MAX / 64 * 64};
  EXPECT_REFUSED(ctx, "2^56", fth_kv_bytes(ctx, &shape, &bytes));
}
