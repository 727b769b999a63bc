#include <math.h>
#include <stdio.h>

#include "bench.h"
#include "kv/kv.h"

namespace {

constexpr bench::Type kTypes[] = {{FTH_F32, "f32"}, {FTH_BF16, "bf16"}, {FTH_I8, "i8"}};
constexpr bench::Model kT5Large = {"T5-large", 1024, 16, 16, 64, 4096};

// How rows see their list: whole prefixes, scattered entries, whole prefixes of dense K,V (the mask form), a tree of
// speculation over the last items, a relative bias by item or by the entries' positions, a dense bias.
enum Kind { kPlain, kScattered, kMask, kTree, kRelative, kPositions, kDense };
constexpr const char* kNames[] = {
    "", " scattered", " mask form", " tree", " relative bias", " relative bias by position", " dense bias"};

// The scales at the end of every page become numbers.
void fill_scales(const bench::Memory& pool, int64_t bytes, int64_t page_bytes) {
  for (int64_t page = 0; page < bytes; page += page_bytes)
    for (int64_t i = page_bytes - 2 * fth::kv::kPage * 4; i < page_bytes; i += 4)
      *reinterpret_cast<float*>(pool.bytes() + page + i) = 0.01f;
}

// `sequences` lists of `context` items in whole pages; each has `rows` rows that see its last items' prefixes,
// causally. The pool holds enough layers for every call to read K,V from memory.
void measure(fth_context* ctx, const bench::Options& options, const bench::Model& m,
             const bench::Type& type, int64_t sequences, int64_t rows, int64_t context, Kind kind) {
  const char* operation = rows == 1 ? "decode" : "prefill";
  char what[64];
  snprintf(what, sizeof what, "%s %s %lldx%lld rows of %lld%s", m.name, type.name, (long long)sequences,
           (long long)rows, (long long)context, kNames[kind]);
  const int64_t entries = sequences * context;
  if (kind == kMask && type.code == FTH_I8) return;  // it takes no int8
  fth_kv_shape kv{1, m.kv_heads, m.head_dim, type.code, fth::round_up(entries, 64)};
  int64_t layer = 0;
  if (!options.wants(what) || fth_kv_bytes(ctx, &kv, &layer) != FTH_OK) return;
  kv.layers = int32_t((int64_t(400) << 20) / layer + 1);
  fth_attention_shape shape{m.heads, FTH_BIAS_NONE, 0, 0, 1.f / sqrtf(float(m.head_dim)), 0};
  if (kind == kDense) shape.bias_kind = FTH_BIAS_DENSE, shape.bias_width = int32_t(context);
  if (kind == kRelative || kind == kPositions)
    shape.bias_kind = FTH_BIAS_RELATIVE, shape.bias_width = 129, shape.bias_center = 128;
  int64_t bytes = 0;
  MUST(ctx, fth_kv_bytes(ctx, &kv, &bytes));
  const int64_t count = sequences * rows, floats = count * m.heads * m.head_dim;
  bench::Memory pool(bytes), q(floats * 4), out(floats * 4), lists(entries * 4),
      row_memory(count * int64_t(sizeof(fth_row))), positions(kv.entries * 4),
      bias((kind == kDense ? count : 1) * m.heads * (shape.bias_width + 1) * 4);
  pool.fill();
  if (type.code == FTH_I8)
    fill_scales(pool, bytes, fth::kv::page_bytes({nullptr, 1, m.kv_heads, 1, m.head_dim, FTH_I8}));
  q.fill();
  int32_t* list = reinterpret_cast<int32_t*>(lists.bytes());
  int32_t* position = reinterpret_cast<int32_t*>(positions.bytes());
  bias.fill();
  for (int64_t i = 0; i < entries; i++) {
    list[i] = int32_t(kind == kScattered ? (i * 37) % entries : i);
    position[i] = int32_t(i % context * 3 / 2);  // every third token never came here
  }
  fth_row* row = reinterpret_cast<fth_row*>(row_memory.bytes());
  double seen = 0;
  for (int64_t i = 0; i < count; i++) {
    const int32_t visible = int32_t(context - rows + i % rows + 1);
    row[i] = {i / rows * context,
              ~uint64_t(0),
              visible,
              0,
              kind == kPositions ? position[visible - 1] : visible - 1,
              0,
              -1,
              int32_t(i / rows)};
    if (kind == kTree) row[i].tree = ~uint64_t(0) << i % rows | (uint64_t(i * 0x9E3779B97F4A7C15) | 1);
    seen += row[i].visible;
  }

  const int64_t token = int64_t(m.kv_heads) * m.head_dim, side = layer / 2;
  const fth_dense_kv_shape dense{int32_t(sequences), int32_t(context),  m.kv_heads, m.head_dim, type.code,
                                 0,                  context * token, token,      m.head_dim};
  const bench::Memory reach(kind == kMask ? entries * 4 : 4);  // 0: K,V of depth 0 are there
  const auto call = [&](int32_t l, const char* memory) {
    const float* bias_or_none = shape.bias_kind == FTH_BIAS_NONE ? nullptr : bias.floats();
    if (kind == kMask)
      return fth_attention_masked(ctx, &shape, &dense, count, row, q.floats(), memory, memory + side,
                                  reinterpret_cast<const int32_t*>(reach.bytes()), bias_or_none, out.floats());
    return fth_attention(ctx, &shape, &kv, l, count, row, q.floats(), list, entries, pool.bytes(),
                         kind == kPositions ? position : nullptr, bias_or_none, out.floats());
  };

  // Queries and probabilities are no int8: products with int8 K,V are those of pairs, as bf16's.
  bench::Ideal ideal(ctx, type.code == FTH_F32 ? FTH_F32 : FTH_BF16, 4.0 * seen * m.heads * m.head_dim, double(layer));
  bench::Samples samples;
  int32_t l = 0;
  const auto next = [&] { return l = (l + 1) % kv.layers; };
  const double until = bench::now() + options.seconds;
  do {
    ideal.sample(pool.bytes() + next() * layer);
    next();
    samples.time([&] { MUST(ctx, call(l, pool.bytes() + l * layer)); });
  } while (bench::now() < until);
  bench::report(ideal.line(operation, what), samples);
}

}  // namespace

BENCH(attention) {
  for (const bench::Type& type : kTypes)
    for (const bench::Model& model : bench::kModels) {
      for (int64_t context : {512, 2048, 8192}) measure(ctx, options, model, type, 1, 1, context, kPlain);
      for (int64_t sequences : {4, 16}) measure(ctx, options, model, type, sequences, 1, 2048, kPlain);
      measure(ctx, options, model, type, 4, 1, 2048, kScattered);
      for (int64_t rows : {1, 64}) measure(ctx, options, model, type, 1, rows, 2048, kMask);
      for (int64_t rows : {4, 64, 512}) measure(ctx, options, model, type, 1, rows, 2048, kPlain);
    }
}

// One token, the rows of a deep pass or a tree, and an encoder's.
BENCH(attention_bias) {
  for (const bench::Type& type : kTypes)
    for (Kind kind : {kPlain, kTree, kRelative, kPositions, kDense})
      for (int64_t rows : {1, 8, 64}) measure(ctx, options, kT5Large, type, 1, rows, 512, kind);
}
