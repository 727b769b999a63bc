// Embedding rows from plain and packed tables: exact, since a product with the scale is one rounding.
#include "test.h"

using test::Guarded;

static float of_bf16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

template <class T>
static void compare(int32_t isa, int32_t type, int32_t vocab, int32_t width, bool packed) {
  test::Context ctx(isa, 2);
  test::Random random(uint64_t(vocab * 7 + width));
  Guarded<T> table(int64_t(vocab) * width);
  for (int64_t i = 0; i < table.size(); i++) {
    if constexpr (sizeof(T) == 4) table[i] = random.uniform();
    else table[i] = T(0x3c00 + random.below(0x400));
  }
  const fth_linear_shape head{width, vocab, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
  int64_t bytes = 0;
  EXPECT_OK(ctx, fth_linear_bytes(ctx, &head, &bytes));
  Guarded<T> panels(bytes / int64_t(sizeof(T)));
  EXPECT_OK(ctx, fth_linear_pack(ctx, &head, 0, vocab, type, table, panels));

  const int64_t count = 30;
  Guarded<int32_t> id(count);
  Guarded<float> out(count * width);
  for (int64_t i = 0; i < count; i++) id[i] = int32_t(random.below(vocab));
  id[0] = vocab - 1;
  const fth_embed_shape shape{vocab, width, type, packed, 1.7f, 0};
  EXPECT_OK(ctx, fth_embed(ctx, &shape, count, id, packed ? panels.get() : table.get(), out));
  for (int64_t i = 0; i < count; i++)
    for (int64_t k = 0; k < width; k++) {
      const T v = table[int64_t(id[i]) * width + k];
      const float want = 1.7f * (sizeof(T) == 4 ? float(v) : of_bf16(uint16_t(v)));
      EXPECT(out[i * width + k] == want, "isa %d type %d width %d packed %d", isa, type, width, packed);
    }
}

TEST(matches_the_table) {
  for (int32_t isa = 0; isa <= fth_isa_best(); isa++)
    for (int32_t vocab : {1, 64, 203})
      for (int32_t width : {1, 7, 8, 16, 33, 200})
        for (bool packed : {false, true}) {
          compare<float>(isa, FTH_F32, vocab, width, packed);
          compare<uint16_t>(isa, FTH_BF16, vocab, width, packed);
        }
}

TEST(refuses_bad_arguments) {
  test::Context ctx;
  Guarded<float> table(12), out(8);
  Guarded<int32_t> id(2);
  id[0] = 2; id[1] = 3;
  fth_embed_shape shape{3, 4, FTH_F32, 0, 1.f, 0};
  EXPECT_REFUSED(ctx, "id[1] must be in 0..2, got 3", fth_embed(ctx, &shape, 2, id, table, out));
  EXPECT_REFUSED(ctx, "id must not be null", fth_embed(ctx, &shape, 1, nullptr, table, out));
  EXPECT_REFUSED(ctx, "table must not be null", fth_embed(ctx, &shape, 1, id, nullptr, out));
  EXPECT_REFUSED(ctx, "out must not be null", fth_embed(ctx, &shape, 1, id, table, nullptr));
  EXPECT_REFUSED(ctx, "table and out must not overlap", fth_embed(ctx, &shape, 1, id, table, table + 8));
  EXPECT_REFUSED(ctx, "count", fth_embed(ctx, &shape, -1, id, table, out));
  EXPECT_REFUSED(ctx, "shape must not be null", fth_embed(ctx, nullptr, 1, id, table, out));
  shape.scale = INFINITY;
  EXPECT_REFUSED(ctx, "shape.scale", fth_embed(ctx, &shape, 1, id, table, out));
  shape = {3, 4, FTH_F16, 0, 1.f, 0};
  EXPECT_REFUSED(ctx, "shape.type", fth_embed(ctx, &shape, 1, id, table, out));
  shape = {3, 4, FTH_F32, 2, 1.f, 0};
  EXPECT_REFUSED(ctx, "shape.packed", fth_embed(ctx, &shape, 1, id, table, out));
  shape = {0, 4, FTH_F32, 0, 1.f, 0};
  EXPECT_REFUSED(ctx, "shape.vocab_size", fth_embed(ctx, &shape, 1, id, table, out));
}
