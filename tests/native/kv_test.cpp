// The K,V pool: what is written is read back, nothing else is touched, bad arguments are refused.
#include "kv/kv.h"

#include "arguments.h"
#include "simd/scalar.h"

using test::Guarded;

// What a side of n floats is read back as: bf16 rounds each, int8 to 127 steps of the largest.
static void stored(int32_t type, int64_t n, const float* x, float* want) {
  float most = 0;
  for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
  for (int64_t i = 0; i < n; i++)
    want[i] = type == FTH_F32 ? x[i] : type == FTH_BF16 ? float_of_bf16(bf16_of_float(x[i]))
              : most == 0     ? 0
                              : most / 127.f * rintf(x[i] * (127.f / most));
}

// Entries far apart, or in runs with gaps that begin anywhere in a page.
static int32_t entry_of(int64_t i, bool runs) { return int32_t(runs ? (i + i / 45 * 5 + 3) % 256 : i * 37 % 256); }

static void round_trip(int32_t type, int32_t head_dim, int32_t kv_heads, int64_t count, bool runs) {
  test::Context any;
  test::Random random(uint64_t(head_dim + count));
  const fth_kv_shape shape{3, kv_heads, head_dim, type, 256};
  const int32_t layer = 1;
  int64_t bytes = 0;
  EXPECT_OK(any, fth_kv_bytes(any, &shape, &bytes));
  const int64_t element = type == FTH_F32 ? 4 : type == FTH_BF16 ? 2 : 1, scales = type == FTH_I8 ? 8 : 0;
  const int64_t padded = (head_dim + 15) / 16 * 16, row_bytes = (head_dim * element + 15) / 16 * 16;
  EXPECT(bytes == 256 * 3 * kv_heads * ((test::kCuda ? 2 * row_bytes : (head_dim + padded) * element) + scales));

  const int64_t row = int64_t(kv_heads) * head_dim;
  Guarded<char> first(bytes), pool(bytes), before(bytes);
  Guarded<float> k(count * row), v(count * row), k_back(count * row), v_back(count * row), want(head_dim);
  Guarded<fth_row> rows(count);
  Guarded<int32_t> entry(count);
  memset(before, 0x5a, size_t(bytes));
  random.fill(k, k.size(), 3.f);
  random.fill(v, v.size());
  for (int64_t i = 0; i < head_dim; i++) v[i] = 0;
  for (int64_t i = 0; i < count; i++) {
    rows[i] = test::row();
    entry[i] = rows[i].entry = entry_of(i, runs);
  }
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t workers : {1, 3}) {
      if (test::kCuda && workers > 1) continue;  // has none
      test::Context ctx(isa, workers);
      pool.copy_from(before);
      EXPECT_OK(ctx, fth_kv_write(ctx, &shape, layer, count, rows, k, v, pool));
      if (isa == 0 && workers == 1) first.copy_from(pool);
      EXPECT(memcmp(pool, first, size_t(bytes)) == 0, "isa %d, type %d", isa, type);
    }
  EXPECT_OK(any, fth_kv_read(any, &shape, layer, count, entry, pool, k_back, v_back));
  for (int64_t i = 0; i < count * kv_heads; i++) {
    stored(type, head_dim, k + i * head_dim, want);
    for (int64_t d = 0; d < head_dim; d++) EXPECT(k_back[i * head_dim + d] == want[d]);
    stored(type, head_dim, v + i * head_dim, want);
    for (int64_t d = 0; d < head_dim; d++) EXPECT(v_back[i * head_dim + d] == want[d]);
  }

  // Nothing else changed: put back what the items' places held.
  const fth::kv::Pool layout{pool, shape.layers, kv_heads, shape.entries / 64, head_dim, type, test::kCuda};
  const bool pairs = type != FTH_F32;
  for (int64_t i = 0; i < count; i++)
    for (int64_t h = 0; h < kv_heads; h++) {
      char* k_tile = fth::kv::tile(layout, entry[i] / 64, layer, h);
      char* v_tile = k_tile + fth::kv::k_tile_bytes(layout);
      const int64_t key = entry[i] % 64;
      if (test::kCuda) {
        memset(k_tile + key * row_bytes, 0x5a, size_t(row_bytes));
        memset(v_tile + key * row_bytes, 0x5a, size_t(row_bytes));
      }
      for (int64_t d = 0; d < head_dim && !test::kCuda; d++) {
        memset(k_tile + fth::kv::k_index(pairs, key, d) * element, 0x5a, size_t(element));
        memset(v_tile + fth::kv::v_index(pairs, head_dim, key, d) * element, 0x5a, size_t(element));
      }
      if (type != FTH_I8) continue;
      float* scale = reinterpret_cast<float*>(v_tile + fth::kv::v_tile_bytes(layout));
      memset(scale + key, 0x5a, 4);
      memset(scale + 64 + key, 0x5a, 4);
    }
  EXPECT(memcmp(pool, before, size_t(bytes)) == 0);
}

TEST(written_entries_are_read_back) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8})
    for (int32_t head_dim : {16, 24, 40, 64, 80, 128, 256})
      for (int64_t count : {1, 5, 200})
        for (bool runs : {false, true}) round_trip(type, head_dim, 1 + head_dim % 3, count, runs);
}

// int8: too small for a scale is 0; a side that holds no finite number is no number, the other side keeps its own.
TEST(int8_of_extreme_numbers) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa);
    const fth_kv_shape shape{1, 1, 16, FTH_I8, 64};
    const int32_t entry = 3;
    fth_row row = test::row();
    row.entry = entry;
    Guarded<char> pool(64 * (32 + 8));
    Guarded<float> k(16), v(16), k_back(16), v_back(16);
    for (float extreme : {0x1p-101f, 0x1p-100f, 0x1p127f, INFINITY, -INFINITY, NAN, -NAN}) {
      for (int i = 0; i < 16; i++) k[i] = v[i] = float(i) * 0x1p-104f;
      k[7] = extreme;
      EXPECT_OK(ctx, fth_kv_write(ctx, &shape, 0, 1, &row, k, v, pool));
      EXPECT_OK(ctx, fth_kv_read(ctx, &shape, 0, 1, &entry, pool, k_back, v_back));
      for (int i = 0; i < 16; i++) {
        if (!isfinite(extreme)) EXPECT(isnan(k_back[i]));
        else if (i == 7) EXPECT(k_back[i] == (extreme < 0x1p-100f ? 0 : extreme / 127.f * 127.f));
        EXPECT(fabsf(v_back[i] - v[i]) <= 0x1p-100f);
      }
    }
  }
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
  for (int32_t type : {-1, 2, 4}) a.refused("shape.type must be FTH_F32, FTH_BF16 or FTH_I8, got", s->type, type);
  for (int64_t entries : {int64_t(-64), int64_t(65), int64_t(1) << 31})
    a.refused("shape.entries must be a multiple of 64 in 0..2147483647, got", s->entries, entries);
  a.refused("shape describes a pool of more than 2^56 bytes", *s,
            fth_kv_shape{65536, 65536, 256, FTH_F32, INT32_MAX / 64 * 64});
}

TEST(keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8})
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
      const auto pool = write.packed_output("pool", pool_bytes, test::kStored);
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
      const auto source = read.packed("pool", pool_bytes, test::kStored);
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
