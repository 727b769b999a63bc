// Embedding rows from plain and packed tables: exact, since a product with the scale is one rounding.
#include "arguments.h"
#include "storage.h"

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

// Rows of a quantised LM head, exact: code times scale is rounded once, and once more times the embedding's.
TEST(matches_a_quantised_head) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : {FTH_I8, FTH_Q8_0, FTH_Q4_0, FTH_F8_E4M3})
      for (int32_t width : {1, 33, 160}) {
        test::Context ctx(isa);
        test::Random random(uint64_t(type + width));
        const int32_t vocab = 131;
        Guarded<float> table(vocab * width), out(vocab * width);
        Guarded<double> stored(width);
        Guarded<int32_t> id(vocab);
        random.fill(table, table.size());
        for (int32_t i = 0; i < vocab; i++) id[i] = vocab - 1 - i;
        const fth_linear_shape head{width, vocab, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
        int64_t bytes = 0;
        EXPECT_OK(ctx, fth_linear_bytes(ctx, &head, &bytes));
        Guarded<char> panels(bytes);
        EXPECT_OK(ctx, fth_linear_pack(ctx, &head, 0, vocab, FTH_F32, table, panels));
        const fth_embed_shape shape{vocab, width, type, 1, 1.7f, 0};
        EXPECT_OK(ctx, fth_embed(ctx, &shape, vocab, id, panels, out));
        for (int32_t i = 0; i < vocab; i++) {
          store_weights(type, table + id[i] * width, width, stored);
          for (int32_t k = 0; k < width; k++)
            EXPECT(out[i * width + k] == 1.7f * float(stored[k]), "isa %d type %d width %d: %g, want %g", isa, type,
                   width, out[i * width + k], 1.7 * stored[k]);
        }
      }
}

TEST(matches_the_table) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t vocab : {1, 64, 203})
      for (int32_t width : {1, 7, 8, 16, 33, 200})
        for (bool packed : {false, true}) {
          compare<float>(isa, FTH_F32, vocab, width, packed);
          compare<uint16_t>(isa, FTH_BF16, vocab, width, packed);
        }
}

TEST(keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t width : {1, 7, 16, 35})
      for (int32_t packed : {0, 1}) {
        test::Arguments a;
        const int32_t vocab = 67, element = type == FTH_F32 ? 4 : 2;
        const fth_linear_shape head{width, vocab, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0};
        int64_t count = 3, bytes = int64_t(vocab) * width * element;
        if (packed) EXPECT_OK(a.ctx, fth_linear_bytes(a.ctx, &head, &bytes));
        const auto shape = a.shape<fth_embed_shape>({vocab, width, type, packed, 0.5f, 0});
        const auto id = a.input<int32_t>("id", count);
        const auto table = a.packed("table", bytes, packed && test::kCuda ? 16 : element);
        const auto out = a.output<float>("out", count * width);
        id[0] = 0;
        id[1] = vocab - 1;
        id[2] = 2;
        a.call = [&](fth_context* ctx) { return fth_embed(ctx, shape, count, id, table, out); };
        a.guards();
        if (width != 7) continue;
        a.refusals();
        a.nothing(count);
        a.counts(count);
        a.range("shape.vocab_size", shape->vocab_size, 1, 1 << 24);
        a.range("shape.hidden_size", shape->hidden_size, 1, 1 << 24);
        if (packed) a.weight_type("shape.type", shape->type);
        else a.range("shape.type", shape->type, 0, 1);
        a.range("shape.packed", shape->packed, 0, 1);
        a.finite("shape.scale", shape->scale);
        a.range("shape.reserved", shape->reserved, 0, 0);
        a.range("id[1]", id[1], 0, vocab - 1);
      }
}
