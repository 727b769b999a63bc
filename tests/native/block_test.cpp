// The block against a double-precision evaluation of a transformer layer, row by row, on every instruction set: mixed
// depths, several sequences, every norm placement, LoRA per depth, rows without entry, and the promises about bits.
#include <initializer_list>

#include "test.h"

using test::Guarded;

namespace {

constexpr int kParts = 14;

// A block of random weights, kept in double beside the packed form.
struct Block {
  fth_block_shape shape;
  double* tensor[4][8][kParts][4] = {};  // [layer][depth][part][kind]; depth 0 holds what all depths share
  void* weights = nullptr;
  int64_t bytes = 0;

  static int64_t size(const fth_block_shape& s, int part, int kind) {
    const int64_t q = int64_t(s.heads) * s.head_dim, kv = int64_t(s.kv_heads) * s.head_dim, d = s.hidden_size,
                  f = s.intermediate_size;
    const int64_t out[7] = {q, kv, kv, d, f, f, d}, in[7] = {d, d, d, q, d, d, f};
    if (part == FTH_ROPE_FREQUENCY) return s.rotary_dim / 2;
    if (part >= FTH_ATTENTION_PRE_NORM) return d;
    return kind == FTH_WEIGHT ? out[part] * in[part]
           : kind == FTH_BIAS ? out[part]
           : kind == FTH_LORA_A ? s.lora_rank[part] * in[part] : out[part] * s.lora_rank[part];
  }

  Block(fth_context* ctx, const fth_block_shape& s, uint64_t seed) : shape(s) {
    test::Random random(seed);
    EXPECT(fth_block_bytes(ctx, &s, &bytes) == FTH_OK, "%s", fth_context_message(ctx));
    EXPECT(fth_memory_map(bytes, &weights) == FTH_OK);
    for (int layer = 0; layer < s.layers; layer++) {
      for (int part = 0; part <= FTH_MLP_POST_NORM; part++) {
        const bool norm = part >= FTH_ATTENTION_PRE_NORM;
        const int placement = norm ? 1 << (part - FTH_ATTENTION_PRE_NORM) % 3 : 0;
        if (norm && !(s.norm_placement & placement)) continue;
        if (part == FTH_GATE && !s.glu) continue;
        for (int kind = 0; kind < 4; kind++) {
          if (norm && (kind > FTH_BIAS || (kind == FTH_BIAS && s.norm != FTH_LAYER_NORM))) continue;
          if (!norm && kind == FTH_BIAS && !s.bias) continue;
          if (!norm && kind >= FTH_LORA_A && s.lora_rank[part] == 0) continue;
          const bool per_depth = norm ? s.norm_per_depth != 0 : kind >= FTH_LORA_A;
          for (int depth = 0; depth < (per_depth ? s.depths : 1); depth++) {
            const float spread = norm ? 1.f : kind == FTH_LORA_A ? 0.3f : 1.5f / sqrtf(float(s.hidden_size));
            pack(ctx, random, layer, depth, part, kind, spread);
          }
        }
      }
    }
    if (s.rope_style != FTH_ROPE_NONE) pack(ctx, random, 0, 0, FTH_ROPE_FREQUENCY, FTH_WEIGHT, 1.f);
  }

  void pack(fth_context* ctx, test::Random& random, int layer, int depth, int part, int kind, float spread) {
    const int64_t n = size(shape, part, kind);
    Guarded<float> source(n);
    double*& kept = tensor[layer][depth][part][kind];
    kept = static_cast<double*>(malloc(size_t(n) * sizeof(double)));
    random.fill(source, n, spread);
    const float scale = kind == FTH_LORA_B ? 0.5f : 1.f;
    const bool matrix = part <= FTH_DOWN && kind != FTH_BIAS;
    for (int64_t i = 0; i < n; i++) {
      if (part == FTH_ROPE_FREQUENCY) source[i] = fabsf(source[i]);
      if (matrix && shape.weight_type == FTH_BF16) {  // representable, so that packing loses nothing
        uint32_t bits;
        memcpy(&bits, &source[i], 4);
        bits &= 0xffff0000u;
        memcpy(&source[i], &bits, 4);
      }
      kept[i] = double(source[i]) * scale;
    }
    EXPECT(fth_block_pack(ctx, &shape, layer, depth, part, kind, scale, FTH_F32, source, weights) == FTH_OK, "%s",
           fth_context_message(ctx));
  }

  ~Block() {
    for (auto& layer : tensor) for (auto& depth : layer) for (auto& part : depth) for (double* kind : part) free(kind);
    fth_memory_unmap(weights, bytes);
  }

  const double* at(int layer, int depth, int part, int kind) const {
    const double* own = tensor[layer][depth][part][kind];
    return own != nullptr ? own : tensor[layer][0][part][kind];
  }

  // y = W x + bias + B A x
  void linear(int layer, int depth, int part, const double* x, double* y) const {
    const int64_t q = int64_t(shape.heads) * shape.head_dim, d = shape.hidden_size, f = shape.intermediate_size;
    const int64_t width = part == FTH_O ? q : part == FTH_DOWN ? f : d, out = size(shape, part, FTH_WEIGHT) / width;
    const double *w = at(layer, 0, part, FTH_WEIGHT), *b = at(layer, 0, part, FTH_BIAS);
    const int rank = shape.lora_rank[part];
    double low[64] = {};
    for (int r = 0; r < rank; r++)
      for (int64_t k = 0; k < width; k++) low[r] += tensor[layer][depth][part][FTH_LORA_A][r * width + k] * x[k];
    for (int64_t o = 0; o < out; o++) {
      double sum = b != nullptr ? b[o] : 0;
      for (int64_t k = 0; k < width; k++) sum += w[o * width + k] * x[k];
      for (int r = 0; r < rank; r++) sum += tensor[layer][depth][part][FTH_LORA_B][o * rank + r] * low[r];
      y[o] = sum;
    }
  }

  void norm(int layer, int depth, int part, const double* x, double* y) const {
    const int d = shape.hidden_size;
    const double *gain = at(layer, depth, part, FTH_WEIGHT), *bias = at(layer, depth, part, FTH_BIAS);
    double mean = 0, squares = 0;
    if (shape.norm == FTH_LAYER_NORM) { for (int k = 0; k < d; k++) mean += x[k]; mean /= d; }
    for (int k = 0; k < d; k++) squares += (x[k] - mean) * (x[k] - mean);
    const double scale = 1 / sqrt(squares / d + double(shape.norm_eps));
    for (int k = 0; k < d; k++) y[k] = (x[k] - mean) * scale * gain[k] + (bias != nullptr ? bias[k] : 0);
  }

  void rope(double* head, int position) const {
    const int half = shape.rotary_dim / 2;
    for (int i = 0; i < half; i++) {
      const bool split = shape.rope_style == FTH_ROPE_HALF;
      double &a = head[split ? i : 2 * i], &b = head[split ? i + half : 2 * i + 1];
      const double angle = position * tensor[0][0][FTH_ROPE_FREQUENCY][0][i], c = cos(angle), s = sin(angle), x = a, y = b;
      a = x * c - y * s;
      b = y * c + x * s;
    }
  }

  double activate(double z) const {
    switch (shape.activation) {
      case FTH_RELU: return z > 0 ? z : 0;
      case FTH_GELU: return 0.5 * z * (1 + erf(z / sqrt(2.0)));
      case FTH_GELU_TANH: return 0.5 * z * (1 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)));
      case FTH_SILU: return z / (1 + exp(-z));
      default: return z;
    }
  }

  // keys, values: [layer][entry][kv_heads * head_dim], read and written as the pool is.
  void run(int64_t count, const fth_row* rows, const int32_t* entries, double* keys, double* values, int64_t pool,
           double* hidden) const {
    const fth_block_shape& s = shape;
    const int d = s.hidden_size, q_size = s.heads * s.head_dim, kv_size = s.kv_heads * s.head_dim, f = s.intermediate_size;
    double *q = static_cast<double*>(malloc(sizeof(double) * count * q_size)), x[512], y[512], a[512], g[512], u[512];
    for (int layer = 0; layer < s.layers; layer++) {
      for (int64_t i = 0; i < count; i++) {
        const fth_row& r = rows[i];
        double* h = hidden + i * d;
        if (s.norm_placement & FTH_NORM_PRE) norm(layer, r.depth, FTH_ATTENTION_PRE_NORM, h, x); else memcpy(x, h, sizeof(double) * d);
        linear(layer, r.depth, FTH_Q, x, q + i * q_size);
        for (int n = 0; n < s.heads; n++) if (s.rope_style) rope(q + i * q_size + n * s.head_dim, r.position);
        if (r.entry < 0) continue;
        double* k = keys + (layer * pool + r.entry) * kv_size;
        linear(layer, r.depth, FTH_K, x, k);
        for (int n = 0; n < s.kv_heads; n++) if (s.rope_style) rope(k + n * s.head_dim, r.position);
        linear(layer, r.depth, FTH_V, x, values + (layer * pool + r.entry) * kv_size);
      }
      for (int64_t i = 0; i < count; i++) {
        const fth_row& r = rows[i];
        double* h = hidden + i * d;
        for (int n = 0; n < s.heads; n++) {
          const int kv_head = n / (s.heads / s.kv_heads);
          double total = 0, top = -1e300;
          double* out = a + n * s.head_dim;
          for (int k = 0; k < s.head_dim; k++) out[k] = 0;
          for (int pass = 0; pass < 2; pass++)
            for (int t = r.start; t < r.visible; t++) {
              const double* key = keys + (layer * pool + entries[r.list + t]) * kv_size + kv_head * s.head_dim;
              double z = 0;
              for (int k = 0; k < s.head_dim; k++) z += q[i * q_size + n * s.head_dim + k] * key[k];
              z *= double(s.attention_scale);
              if (pass == 0) { top = z > top ? z : top; continue; }
              const double p = exp(z - top);
              total += p;
              const double* value = values + (layer * pool + entries[r.list + t]) * kv_size + kv_head * s.head_dim;
              for (int k = 0; k < s.head_dim; k++) out[k] += p * value[k];
            }
          for (int k = 0; k < s.head_dim; k++) out[k] = total > 0 ? out[k] / total : 0;
        }
        linear(layer, r.depth, FTH_O, a, y);
        finish(layer, r.depth, FTH_ATTENTION_PRE_NORM, y, h);
        if (s.norm_placement & FTH_NORM_PRE) norm(layer, r.depth, FTH_MLP_PRE_NORM, h, x); else memcpy(x, h, sizeof(double) * d);
        linear(layer, r.depth, FTH_UP, x, u);
        if (s.glu) linear(layer, r.depth, FTH_GATE, x, g);
        for (int k = 0; k < f; k++) u[k] = s.glu ? activate(g[k]) * u[k] : activate(u[k]);
        linear(layer, r.depth, FTH_DOWN, u, y);
        finish(layer, r.depth, FTH_MLP_PRE_NORM, y, h);
      }
    }
    free(q);
  }

  void finish(int layer, int depth, int pre_norm, double* y, double* h) const {
    double t[512];
    if (shape.norm_placement & FTH_NORM_BRANCH) { norm(layer, depth, pre_norm + 1, y, t); memcpy(y, t, sizeof(double) * shape.hidden_size); }
    for (int k = 0; k < shape.hidden_size; k++) h[k] += y[k];
    if (shape.norm_placement & FTH_NORM_POST) { norm(layer, depth, pre_norm + 2, h, t); memcpy(h, t, sizeof(double) * shape.hidden_size); }
  }
};

fth_block_shape small() {
  fth_block_shape s{};
  s.layers = 2; s.depths = 3; s.hidden_size = 48; s.intermediate_size = 72; s.heads = 6; s.kv_heads = 2; s.head_dim = 16;
  s.weight_type = FTH_F32; s.kv_type = FTH_F32; s.norm = FTH_RMS_NORM; s.norm_placement = FTH_NORM_PRE;
  s.activation = FTH_SILU; s.glu = 1; s.rope_style = FTH_ROPE_HALF; s.rotary_dim = 16; s.norm_eps = 1e-5f;
  s.attention_scale = 0.25f;
  return s;
}

// Two sequences of 5 and 70 tokens, prefilled at depth 0, then a step of rows at mixed depths: lists of capacity 128.
struct Scene {
  static constexpr int kLists = 6, kCapacity = 128, kPool = 64 * 12;
  Guarded<int32_t> entries{kLists * kCapacity};
  Guarded<fth_row> rows{75};
  int lengths[kLists] = {};

  Scene() {
    // List l owns pages 2l and 2l + 1, in reverse order for odd l.
    for (int l = 0; l < kLists; l++)
      for (int i = 0; i < kCapacity; i++) entries[l * kCapacity + i] = (2 * l + (l % 2 ? 1 - i / 64 : i / 64)) * 64 + i % 64;
  }
  fth_row append(int sequence, int depth, int position) {
    const int l = sequence * 3 + depth;
    fth_row r = test::row();
    r.list = l * kCapacity; r.entry = entries[r.list + lengths[l]]; r.visible = ++lengths[l]; r.position = position;
    r.depth = depth; r.sequence = sequence;
    return r;
  }
};

void compare(int32_t isa, const fth_block_shape& shape, double bound) {
  test::Context ctx(isa, 2);
  Block block(ctx, shape, 17);
  Scene scene;
  const fth_kv_shape kv{shape.layers, shape.kv_heads, shape.head_dim, shape.kv_type, Scene::kPool};
  int64_t pool_bytes;
  EXPECT_OK(ctx, fth_kv_bytes(ctx, &kv, &pool_bytes));
  Guarded<char> pool(pool_bytes);
  const int d = shape.hidden_size, kv_size = shape.kv_heads * shape.head_dim;
  const int64_t pool_size = int64_t(shape.layers) * Scene::kPool * kv_size;
  Guarded<double> keys(pool_size), values(pool_size);
  test::Random random(3);

  for (int step = 0; step < 2; step++) {
    int64_t count = 0;
    if (step == 0) {
      for (int t = 0; t < 70; t++) {
        scene.rows[count++] = scene.append(1, 0, t);
        if (t < 5) scene.rows[count++] = scene.append(0, 0, t);
      }
    } else {
      scene.rows[count++] = scene.append(0, shape.depths - 1, 5);
      scene.rows[count++] = scene.append(1, shape.depths > 1 ? 1 : 0, 70);
      scene.rows[count++] = scene.append(1, shape.depths - 1, 71);
      fth_row shared = scene.append(1, 0, 72);  // reads list (1, 0) without writing, as in recursive sharing
      scene.lengths[3]--;
      shared.entry = -1;
      shared.visible--;
      shared.depth = shape.depths - 1;
      scene.rows[count++] = shared;
    }
    Guarded<float> hidden(count * d);
    Guarded<fth_row> rows(count);
    Guarded<double> want(count * d);
    rows.copy_from(scene.rows);
    random.fill(hidden, count * d);
    for (int64_t i = 0; i < count * d; i++) want[i] = hidden[i];
    block.run(count, rows, scene.entries, keys, values, Scene::kPool, want);
    EXPECT_OK(ctx, fth_block(ctx, &shape, count, rows, block.weights, scene.entries, scene.entries.size(), Scene::kPool,
                             pool.get(), hidden));
    double worst = 0;
    for (int64_t i = 0; i < count * d; i++) worst = fmax(worst, fabs(hidden[i] - want[i]) / (1 + fabs(want[i])));
    EXPECT(worst <= bound, "isa %d step %d: worst relative error %g, bound %g", isa, step, worst, bound);
  }
}

}  // namespace

// fp32: every product errs by about sqrt(width) * 2^-24 relative to its terms; two layers of seven products and norms on
// values of order one stay below 2e-5. bf16 weights round x to 2^-9 relative in each product, bf16 K,V likewise: 3e-2.
TEST(matches_the_layer_formula) {
  for (int32_t isa = 0; isa <= fth_isa_best(); isa++) {
    for (int placement = 0; placement < 8; placement++) {
      fth_block_shape s = small();
      s.norm_placement = placement;
      s.norm = placement & 1 ? FTH_RMS_NORM : FTH_LAYER_NORM;
      s.norm_per_depth = placement & 2 ? 1 : 0;
      compare(isa, s, 2e-5);
    }
    for (int32_t activation : {FTH_IDENTITY, FTH_RELU, FTH_GELU, FTH_GELU_TANH, FTH_SILU}) {
      fth_block_shape s = small();
      s.activation = activation;
      s.glu = activation % 2;
      s.bias = 1;
      s.rope_style = activation % 3;
      s.rotary_dim = activation == FTH_RELU ? 8 : s.rope_style == FTH_ROPE_NONE ? 0 : 16;
      compare(isa, s, 2e-5);
    }
    for (int32_t rank : {1, 5, 16}) {
      fth_block_shape s = small();
      for (int part = FTH_Q; part <= FTH_DOWN; part++) s.lora_rank[part] = part % 2 ? rank : rank / 2;
      compare(isa, s, 2e-5);
    }
    fth_block_shape s = small();
    s.weight_type = FTH_BF16;
    s.kv_type = FTH_BF16;
    s.lora_rank[FTH_Q] = s.lora_rank[FTH_V] = 4;
    compare(isa, s, 3e-2);
    s.layers = 1;
    s.depths = 1;
    s.kv_heads = 6;
    s.hidden_size = 50;
    compare(isa, s, 3e-2);
  }
}

// Prefill in one call, token by token, and with one or four workers: the same bits, and the same bits in the pool.
TEST(bits_do_not_depend_on_company_or_workers) {
  for (int32_t isa = 0; isa <= fth_isa_best(); isa++)
    for (int32_t type : {FTH_F32, FTH_BF16}) {
      fth_block_shape s = small();
      s.weight_type = s.kv_type = type;
      s.lora_rank[FTH_Q] = s.lora_rank[FTH_DOWN] = 3;
      test::Context one(isa, 1), four(isa, 4);
      Block block(one, s, 5);
      constexpr int kTokens = 70;
      const int d = s.hidden_size;
      const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, type, Scene::kPool};
      int64_t pool_bytes;
      EXPECT_OK(one, fth_kv_bytes(one, &kv, &pool_bytes));
      Guarded<float> a(kTokens * d), b(kTokens * d), c(kTokens * d);
      test::Random random(9);
      random.fill(a, a.size());
      b.copy_from(a);
      c.copy_from(a);
      Guarded<char> pool_a(pool_bytes), pool_b(pool_bytes), pool_c(pool_bytes);
      Scene scene;
      Guarded<fth_row> rows(kTokens);
      for (int t = 0; t < kTokens; t++) rows[t] = scene.append(1, t % 2, t);
      EXPECT_OK(one, fth_block(one, &s, kTokens, rows, block.weights, scene.entries, scene.entries.size(), Scene::kPool, pool_a.get(), a));
      EXPECT_OK(four, fth_block(four, &s, kTokens, rows, block.weights, scene.entries, scene.entries.size(), Scene::kPool, pool_b.get(), b));
      for (int t = 0; t < kTokens; t++)
        EXPECT_OK(one, fth_block(one, &s, 1, rows + t, block.weights, scene.entries, scene.entries.size(), Scene::kPool, pool_c.get(), c + t * d));
      EXPECT(memcmp(a, b, sizeof(float) * kTokens * d) == 0, "isa %d type %d", isa, type);
      EXPECT(memcmp(a, c, sizeof(float) * kTokens * d) == 0, "isa %d type %d", isa, type);
      EXPECT(memcmp(pool_a, pool_b, pool_bytes) == 0 && memcmp(pool_a, pool_c, pool_bytes) == 0, "isa %d type %d", isa, type);
    }
}

TEST(scratch_is_stated) {
  test::Context ctx;
  const fth_block_shape s = small();
  int64_t one, many;
  EXPECT_OK(ctx, fth_block_scratch_bytes(ctx, &s, 1, &one));
  EXPECT_OK(ctx, fth_block_scratch_bytes(ctx, &s, 1000, &many));
  EXPECT(one > 0 && many > one);
}

TEST(refuses_bad_arguments) {
  test::Context ctx;
  const fth_block_shape good = small();
  Block block(ctx, good, 1);
  Scene scene;
  const fth_kv_shape kv{good.layers, good.kv_heads, good.head_dim, good.kv_type, Scene::kPool};
  int64_t pool_bytes, bytes;
  EXPECT_OK(ctx, fth_kv_bytes(ctx, &kv, &pool_bytes));
  Guarded<char> pool(pool_bytes);
  Guarded<float> hidden(2 * good.hidden_size), source(4096);
  Guarded<fth_row> rows(2);
  const auto reset = [&] {
    rows[0] = rows[1] = test::row();
    rows[0].entry = 1; rows[1].entry = 2;
    rows[0].visible = rows[1].visible = 3;
  };
  const auto run = [&](const fth_block_shape* shape) {
    return fth_block(ctx, shape, 2, rows, block.weights, scene.entries, scene.entries.size(), Scene::kPool, pool.get(), hidden);
  };
  reset();
  EXPECT_OK(ctx, run(&good));
  struct { int32_t fth_block_shape::* field; int32_t value; const char* name; } shapes[] = {
      {&fth_block_shape::layers, 0, "layers"}, {&fth_block_shape::depths, 0, "depths"},
      {&fth_block_shape::hidden_size, 0, "hidden_size"}, {&fth_block_shape::intermediate_size, -1, "intermediate_size"},
      {&fth_block_shape::heads, 5, "heads"}, {&fth_block_shape::kv_heads, 0, "kv_heads"},
      {&fth_block_shape::head_dim, 20, "head_dim"}, {&fth_block_shape::weight_type, 2, "weight_type"},
      {&fth_block_shape::kv_type, 9, "kv_type"}, {&fth_block_shape::norm, 2, "norm"},
      {&fth_block_shape::norm_placement, 8, "norm_placement"}, {&fth_block_shape::norm_per_depth, 2, "norm_per_depth"},
      {&fth_block_shape::activation, 7, "activation"}, {&fth_block_shape::glu, 2, "glu"},
      {&fth_block_shape::bias, -1, "bias"}, {&fth_block_shape::rope_style, 3, "rope_style"},
      {&fth_block_shape::rotary_dim, 17, "rotary_dim"}};
  for (const auto& bad : shapes) {
    fth_block_shape s = good;
    s.*bad.field = bad.value;
    EXPECT_REFUSED(ctx, bad.name, run(&s));
    EXPECT_REFUSED(ctx, bad.name, fth_block_bytes(ctx, &s, &bytes));
  }
  fth_block_shape s = good;
  s.norm_eps = NAN;
  EXPECT_REFUSED(ctx, "norm_eps", run(&s));
  s = good;
  s.attention_scale = INFINITY;
  EXPECT_REFUSED(ctx, "attention_scale", run(&s));
  s = good;
  s.lora_rank[2] = -1;
  EXPECT_REFUSED(ctx, "lora_rank[2]", run(&s));

  rows[1].depth = 3;
  EXPECT_REFUSED(ctx, "rows[1].depth", run(&good));
  reset(); rows[1].entry = 1;
  EXPECT_REFUSED(ctx, "entry", run(&good));
  reset(); rows[1].entry = Scene::kPool;
  EXPECT_REFUSED(ctx, "rows[1].entry", run(&good));
  reset(); rows[0].list = -1;
  EXPECT_REFUSED(ctx, "rows[0].list", run(&good));
  reset(); rows[0].visible = int32_t(scene.entries.size() + 1);
  EXPECT_REFUSED(ctx, "rows[0]", run(&good));
  reset(); scene.entries[2] = Scene::kPool;
  EXPECT_REFUSED(ctx, "entries[2]", run(&good));
  scene.entries[2] = -1;
  EXPECT_REFUSED(ctx, "entries[2]", run(&good));
  scene.entries[2] = 2;

  EXPECT_REFUSED(ctx, "weights must not be null", fth_block(ctx, &good, 2, rows, nullptr, scene.entries, scene.entries.size(), Scene::kPool, pool.get(), hidden));
  EXPECT_REFUSED(ctx, "hidden must not be null", fth_block(ctx, &good, 2, rows, block.weights, scene.entries, scene.entries.size(), Scene::kPool, pool.get(), nullptr));
  EXPECT_REFUSED(ctx, "pool_entries", fth_block(ctx, &good, 2, rows, block.weights, scene.entries, scene.entries.size(), 100, pool.get(), hidden));
  EXPECT_REFUSED(ctx, "count", fth_block(ctx, &good, -1, rows, block.weights, scene.entries, scene.entries.size(), Scene::kPool, pool.get(), hidden));

  EXPECT_REFUSED(ctx, "layer", fth_block_pack(ctx, &good, 2, 0, FTH_Q, FTH_WEIGHT, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "depth", fth_block_pack(ctx, &good, 0, 3, FTH_Q, FTH_WEIGHT, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "part", fth_block_pack(ctx, &good, 0, 0, 14, FTH_WEIGHT, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "kind", fth_block_pack(ctx, &good, 0, 0, FTH_Q, 4, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "bias", fth_block_pack(ctx, &good, 0, 0, FTH_Q, FTH_BIAS, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "lora_rank", fth_block_pack(ctx, &good, 0, 0, FTH_Q, FTH_LORA_A, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "norm_placement", fth_block_pack(ctx, &good, 0, 0, FTH_MLP_POST_NORM, FTH_WEIGHT, 1, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "scale", fth_block_pack(ctx, &good, 0, 0, FTH_Q, FTH_WEIGHT, NAN, FTH_F32, source, block.weights));
  EXPECT_REFUSED(ctx, "source_type", fth_block_pack(ctx, &good, 0, 0, FTH_Q, FTH_WEIGHT, 1, 3, source, block.weights));
}
