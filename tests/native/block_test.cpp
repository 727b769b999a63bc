// The block against a double-precision evaluation of a transformer layer, row by row, on every instruction set: mixed
// depths, several sequences, every norm placement, LoRA per depth, rows without entry, cross-attention, relative bias,
// and the promises about bits.
#include <algorithm>
#include <initializer_list>

#include "arguments.h"
#include "storage.h"

using test::Guarded;

namespace {

constexpr int kParts = FTH_RELATIVE_BIAS + 1;

// A block of random weights, kept in double beside the packed form.
struct Block {
  fth_block_shape shape;
  double* tensor[4][8][kParts][4] = {};  // [layer][depth][part][kind]; depth 0 holds what all depths share
  Guarded<char> weights;

  static int64_t size(const fth_block_shape& s, int part, int kind) {
    const int64_t q = int64_t(s.heads) * s.head_dim, kv = int64_t(s.kv_heads) * s.head_dim, d = s.hidden_size,
                  f = s.intermediate_size;
    const int64_t out[9] = {q, kv, kv, d, q, d, f, f, d}, in[9] = {d, d, d, q, d, q, d, d, f};
    if (part == FTH_ROPE_FREQUENCY) return s.rotary_dim / 2;
    if (part == FTH_RELATIVE_BIAS) return int64_t(s.heads) * s.relative_width;
    if (part >= FTH_ATTENTION_PRE_NORM) return d;
    return kind == FTH_WEIGHT ? out[part] * in[part]
           : kind == FTH_BIAS ? out[part]
           : kind == FTH_LORA_A ? s.lora_rank[part] * in[part] : out[part] * s.lora_rank[part];
  }

  static int64_t bytes(fth_context* ctx, const fth_block_shape& s) {
    int64_t n = 0;
    EXPECT(fth_block_bytes(ctx, &s, &n) == FTH_OK, "%s", fth_context_message(ctx));
    return n;
  }

  Block(fth_context* ctx, const fth_block_shape& s, uint64_t seed) : shape(s), weights(bytes(ctx, s)) {
    test::Random random(seed);
    for (int layer = 0; layer < s.layers; layer++) {
      for (int part = 0; part <= FTH_MLP_POST_NORM; part++) {
        const bool norm = part >= FTH_ATTENTION_PRE_NORM;
        const int placement = norm ? 1 << (part - FTH_ATTENTION_PRE_NORM) % 3 : 0;
        if (norm && !(s.norm_placement & placement)) continue;
        if (part == FTH_GATE && !s.glu) continue;
        const bool cross = part == FTH_CROSS_Q || part == FTH_CROSS_O ||
                           (part >= FTH_CROSS_PRE_NORM && part <= FTH_CROSS_POST_NORM);
        if (cross && !s.cross) continue;
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
    if (s.relative_width > 0) pack(ctx, random, 0, 0, FTH_RELATIVE_BIAS, FTH_WEIGHT, 2.f);
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
      if (matrix && shape.weight_type != FTH_F32) source[i] = float(bf16(source[i]));  // packing loses nothing
      kept[i] = double(source[i]) * scale;
    }
    if (part <= FTH_DOWN && kind == FTH_WEIGHT) {
      const int64_t in = n / size(shape, part, FTH_BIAS);
      for (int64_t row = 0; row < n; row += in) store_weights(shape.weight_type, source + row, in, kept + row);
    }
    EXPECT(fth_block_pack(ctx, &shape, layer, depth, part, kind, scale, FTH_F32, source, weights) == FTH_OK, "%s",
           fth_context_message(ctx));
  }

  ~Block() {
    for (auto& layer : tensor) for (auto& depth : layer) for (auto& part : depth) for (double* kind : part) free(kind);
  }

  const double* at(int layer, int depth, int part, int kind) const {
    const double* own = tensor[layer][depth][part][kind];
    return own != nullptr ? own : tensor[layer][0][part][kind];
  }

  // y = W x + bias + B A x
  void linear(int layer, int depth, int part, const double* x, double* y) const {
    const int64_t q = int64_t(shape.heads) * shape.head_dim, d = shape.hidden_size, f = shape.intermediate_size;
    const int64_t width = part == FTH_O || part == FTH_CROSS_O ? q : part == FTH_DOWN ? f : d;
    const int64_t out = size(shape, part, FTH_WEIGHT) / width;
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
      const double angle = position * tensor[0][0][FTH_ROPE_FREQUENCY][0][i];
      const double c = cos(angle), s = sin(angle), x = a, y = b;
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

  // What row r's query [heads * head_dim] finds in one layer's keys and values; position null: without bias.
  void attend(const fth_row& r, const double* q, const int32_t* entries, const double* keys, const double* values,
              bool biased, const int32_t* entry_position, double* a) const {
    const fth_block_shape& s = shape;
    const int kv_size = s.kv_heads * s.head_dim;
    for (int n = 0; n < s.heads; n++) {
      const int kv_head = n / (s.heads / s.kv_heads);
      double total = 0, top = -1e300;
      double* out = a + n * s.head_dim;
      for (int k = 0; k < s.head_dim; k++) out[k] = 0;
      for (int pass = 0; pass < 2; pass++)
        for (int t = r.start; t < r.visible; t++) {
          const int back = r.visible - 1 - t, entry = entries[r.list + t];
          if (back < 64 && !(r.tree >> back & 1)) continue;
          const double* key = keys + entry * kv_size + kv_head * s.head_dim;
          double z = 0;
          for (int k = 0; k < s.head_dim; k++) z += q[n * s.head_dim + k] * key[k];
          z *= double(s.attention_scale);
          if (biased) {
            int at = (entry_position != nullptr ? entry_position[entry] : t) - r.position + s.relative_center;
            at = at < 0 ? 0 : at >= s.relative_width ? s.relative_width - 1 : at;
            z += tensor[0][0][FTH_RELATIVE_BIAS][FTH_WEIGHT][n * s.relative_width + at];
          }
          if (pass == 0) { top = z > top ? z : top; continue; }
          const double p = exp(z - top);
          total += p;
          const double* value = values + entry * kv_size + kv_head * s.head_dim;
          for (int k = 0; k < s.head_dim; k++) out[k] += p * value[k];
        }
      for (int k = 0; k < s.head_dim; k++) out[k] = total > 0 ? out[k] / total : 0;
    }
  }

  // keys, values: [layer][entry][kv_heads * head_dim], read and written as the pool is.
  void run(int64_t count, const fth_row* rows, const fth_row* cross_rows, const int32_t* entries,
           const int32_t* entry_position, double* keys, double* values, int64_t pool, double* hidden) const {
    const fth_block_shape& s = shape;
    const int d = s.hidden_size, q_size = s.heads * s.head_dim, kv_size = s.kv_heads * s.head_dim;
    const int f = s.intermediate_size;
    double *q = static_cast<double*>(malloc(sizeof(double) * count * q_size)), x[512], y[512], a[512], g[512], u[512];
    for (int layer = 0; layer < s.layers; layer++) {
      for (int64_t i = 0; i < count; i++) {
        const fth_row& r = rows[i];
        double* h = hidden + i * d;
        before(layer, r.depth, FTH_ATTENTION_PRE_NORM, h, x);
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
        const double *k = keys + layer * pool * kv_size, *v = values + layer * pool * kv_size;
        double* h = hidden + i * d;
        attend(r, q + i * q_size, entries, k, v, s.relative_width > 0, entry_position, a);
        linear(layer, r.depth, FTH_O, a, y);
        finish(layer, r.depth, FTH_ATTENTION_PRE_NORM, y, h);
        if (s.cross) {
          before(layer, r.depth, FTH_CROSS_PRE_NORM, h, x);
          linear(layer, r.depth, FTH_CROSS_Q, x, y);
          attend(cross_rows[i], y, entries, k, v, false, nullptr, a);
          linear(layer, r.depth, FTH_CROSS_O, a, y);
          finish(layer, r.depth, FTH_CROSS_PRE_NORM, y, h);
        }
        before(layer, r.depth, FTH_MLP_PRE_NORM, h, x);
        linear(layer, r.depth, FTH_UP, x, u);
        if (s.glu) linear(layer, r.depth, FTH_GATE, x, g);
        for (int k = 0; k < f; k++) u[k] = s.glu ? activate(g[k]) * u[k] : activate(u[k]);
        linear(layer, r.depth, FTH_DOWN, u, y);
        finish(layer, r.depth, FTH_MLP_PRE_NORM, y, h);
      }
    }
    free(q);
  }

  // What a sub-layer reads.
  void before(int layer, int depth, int pre_norm, const double* h, double* x) const {
    if (shape.norm_placement & FTH_NORM_PRE) norm(layer, depth, pre_norm, h, x);
    else memcpy(x, h, sizeof(double) * shape.hidden_size);
  }

  void finish(int layer, int depth, int pre_norm, double* y, double* h) const {
    double t[512];
    if (shape.norm_placement & FTH_NORM_BRANCH) {
      norm(layer, depth, pre_norm + 1, y, t);
      memcpy(y, t, sizeof(double) * shape.hidden_size);
    }
    for (int k = 0; k < shape.hidden_size; k++) h[k] += y[k];
    if (shape.norm_placement & FTH_NORM_POST) {
      norm(layer, depth, pre_norm + 2, h, t);
      memcpy(h, t, sizeof(double) * shape.hidden_size);
    }
  }
};

fth_block_shape small() {
  fth_block_shape s{};
  s.layers = 2; s.depths = 3; s.hidden_size = 48; s.intermediate_size = 72;
  s.heads = 6; s.kv_heads = 2; s.head_dim = 16;
  s.weight_type = FTH_F32; s.kv_type = FTH_F32; s.norm = FTH_RMS_NORM; s.norm_placement = FTH_NORM_PRE;
  s.activation = FTH_SILU; s.glu = 1; s.rope_style = FTH_ROPE_HALF; s.rotary_dim = 16; s.norm_eps = 1e-5f;
  s.attention_scale = 0.25f;
  return s;
}

// The decoder of T5 1.1.
fth_block_shape t5() {
  fth_block_shape s = small();
  s.cross = 1; s.relative_width = 33; s.relative_center = 20; s.rope_style = FTH_ROPE_NONE; s.rotary_dim = 0;
  s.kv_heads = s.heads; s.activation = FTH_GELU_TANH; s.norm_eps = 1e-6f; s.attention_scale = 1;
  return s;
}

// Everything at once: cross-attention, relative bias, rotation, LoRA of odd ranks, all norms with biases, per depth.
fth_block_shape everything(int32_t type, int32_t hidden, int32_t glu) {
  fth_block_shape s = small();
  s.hidden_size = hidden;
  s.intermediate_size = hidden + 2;
  s.weight_type = s.kv_type = type;
  s.norm = FTH_LAYER_NORM;
  s.norm_placement = FTH_NORM_PRE | FTH_NORM_BRANCH | FTH_NORM_POST;
  s.norm_per_depth = s.bias = s.cross = 1;
  s.glu = glu;
  s.relative_width = 21;
  s.relative_center = 15;
  for (int part = FTH_Q; part <= FTH_DOWN; part++) s.lora_rank[part] = part == FTH_GATE && !glu ? 0 : 1 + part % 3;
  return s;
}

// Two sequences of 5 and 70 tokens, prefilled at depth 0, then a step of rows at mixed depths, then nine rows that all
// see one another: lists of capacity 128. Each sequence has an encoder's list of 40 or 90 tokens, the second scattered.
struct Scene {
  static constexpr int kDecoder = 7, kLists = kDecoder + 2, kCapacity = 128, kPool = 64 * 2 * kLists;
  static constexpr int kEncoderLengths[2] = {40, 90};
  Guarded<int32_t> entries{kLists * kCapacity}, position{kPool};
  Guarded<fth_row> rows{75};
  int lengths[kLists] = {};

  Scene() {
    // List l owns pages 2l and 2l + 1, in reverse order for odd l.
    for (int l = 0; l < kLists; l++)
      for (int i = 0; i < kCapacity; i++)
        entries[l * kCapacity + i] = (2 * l + (l % 2 ? 1 - i / 64 : i / 64)) * 64 + i % 64;
    for (int i = 0, last = kLists - 1; i < kCapacity; i++)
      entries[last * kCapacity + i] = 2 * last * 64 + i * 37 % kCapacity;
    for (int e = 0; e < kPool; e++) position[e] = INT32_MAX;  // read of no row
  }
  fth_row append(int sequence, int depth, int position) {
    const int l = sequence * 3 + depth;
    fth_row r = test::row();
    r.list = l * kCapacity; r.entry = entries[r.list + lengths[l]]; r.visible = ++lengths[l]; r.position = position;
    r.depth = depth; r.sequence = sequence;
    this->position[r.entry] = position;
    return r;
  }
  // Row i of a call sees its sequence's encoder: all of it, or a window, or nothing.
  fth_row cross(int64_t i, int sequence) const {
    fth_row r = test::row();
    r.list = (kDecoder + sequence % 2) * kCapacity;
    r.visible = i % 11 == 7 ? 0 : kEncoderLengths[sequence % 2];
    r.start = i % 5 == 4 ? 30 : 0;
    r.entry = -7;  // not read
    return r;
  }
  // Random K,V for the encoders' tokens, exact in both types of pool.
  void fill_encoders(fth_context* ctx, const fth_kv_shape& kv, char* pool, double* keys, double* values) const {
    const int64_t row = int64_t(kv.kv_heads) * kv.head_dim;
    test::Random random(8);
    for (int32_t layer = 0; layer < kv.layers; layer++)
      for (int l = 0; l < 2; l++) {
        const int count = kEncoderLengths[l];
        Guarded<float> k(count * row), v(count * row);
        Guarded<fth_row> to(count);
        for (int i = 0; i < count; i++) {
          to[i] = test::row();
          to[i].entry = entries[(kDecoder + l) * kCapacity + i];
          for (int64_t j = i * row; j < (i + 1) * row; j++) {
            k[j] = roundf(random.uniform() * 64) / 64;
            v[j] = roundf(random.uniform() * 64) / 64;
            if (keys == nullptr) continue;
            keys[(layer * kPool + to[i].entry) * row + j % row] = k[j];
            values[(layer * kPool + to[i].entry) * row + j % row] = v[j];
          }
        }
        EXPECT(fth_kv_write(ctx, &kv, layer, count, to, k, v, pool) == FTH_OK, "%s", fth_context_message(ctx));
      }
  }
};
constexpr int Scene::kEncoderLengths[2];

// `positions`: entry_position is given; else an item's index is its position.
fth_status run(fth_context* ctx, const Block& block, const Scene& scene, int64_t count, const fth_row* rows,
               const fth_row* cross_rows, bool positions, char* pool, float* hidden) {
  return fth_block(ctx, &block.shape, count, rows, block.shape.cross ? cross_rows : nullptr, block.weights,
                   scene.entries, scene.entries.size(), positions ? scene.position.get() : nullptr, Scene::kPool, pool,
                   hidden);
}

// What rounding does to values of order 1, as one standard deviation. The roundings of a sum of n products wander: each
// is uniform in +- 2^-24 of a partial sum that grows as a root does, so together they are about 2^-24 sqrt(n / 6) of
// the result. A product that rounds its inputs (weights or K,V in bf16) gets each with an error of +- 2^-9 where its
// mantissa is 1 and half of that where it is 2, so its own is about 2^-9 / sqrt(6) of the result, whatever its length.
// A sub-layer chains three products, and errors that know nothing of one another add as squares do, over products and
// sub-layers; norms, residuals and activations carry them on at their size.
double standard_error(const fth_block_shape& s) {
  const int longest = std::max({s.hidden_size, s.intermediate_size, s.heads * s.head_dim});
  const bool bf16 = s.weight_type == FTH_BF16 || s.weight_type == FTH_F8_E4M3 || s.kv_type == FTH_BF16;
  const bool codes = s.weight_type == FTH_I8 || s.weight_type == FTH_Q8_0 || s.weight_type == FTH_Q4_0;
  // In codes an input has an error of +- 1/254 of the largest among 128, about three deviations; so have int8 K,V.
  const double product = codes || s.kv_type == FTH_I8 ? 3 / (127 * sqrt(12))
                         : bf16                       ? 0x1p-9 / sqrt(6)
                                                      : 0x1p-24 * sqrt(longest / 6.);
  return product * sqrt(3. * (s.cross ? 3 : 2) * s.layers);
}

void compare(int32_t isa, const fth_block_shape& shape, bool positions = false) {
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
  scene.fill_encoders(ctx, kv, pool, keys, values);

  for (int step = 0; step < 3; step++) {
    int64_t count = 0;
    if (step == 0) {
      for (int t = 0; t < 70; t++) {
        scene.rows[count++] = scene.append(1, 0, t);
        if (t < 5) scene.rows[count++] = scene.append(0, 0, t);
      }
    } else if (step == 2) {
      for (int t = 0; t < 9; t++) {
        scene.rows[count] = scene.append(2, 0, 2 * t);
        scene.rows[count++].visible = 9;
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
    Guarded<fth_row> rows(count), cross(count);
    Guarded<double> want(count * d);
    rows.copy_from(scene.rows);
    for (int64_t i = 0; i < count; i++) cross[i] = scene.cross(i, rows[i].sequence);
    random.fill(hidden, count * d);
    for (int64_t i = 0; i < count * d; i++) want[i] = hidden[i];
    block.run(count, rows, cross, scene.entries, positions ? scene.position.get() : nullptr, keys, values,
              Scene::kPool, want);
    EXPECT_OK(ctx, run(ctx, block, scene, count, rows, cross, positions, pool, hidden));
    // All together stay below one standard error, and of the thousands none is beyond six.
    double worst = 0, squares = 0;
    for (int64_t i = 0; i < count * d; i++) {
      const double error = fabs(hidden[i] - want[i]) / (1 + fabs(want[i]));
      worst = fmax(worst, error);
      squares += error * error;
    }
    const double usual = sqrt(squares / double(count * d)), bound = standard_error(shape);
    EXPECT(usual <= bound && worst <= 6 * bound, "isa %d step %d: errors of %g and at most %g, standard error %g", isa,
           step, usual, worst, bound);
  }
}

}  // namespace

TEST(matches_the_layer_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    for (int placement = 0; placement < 8; placement++) {
      fth_block_shape s = small();
      s.norm_placement = placement;
      s.norm = placement & 1 ? FTH_RMS_NORM : FTH_LAYER_NORM;
      s.norm_per_depth = placement & 2 ? 1 : 0;
      compare(isa, s);
    }
    for (int32_t activation : {FTH_IDENTITY, FTH_RELU, FTH_GELU, FTH_GELU_TANH, FTH_SILU}) {
      fth_block_shape s = small();
      s.activation = activation;
      s.glu = activation % 2;
      s.bias = 1;
      s.rope_style = activation % 3;
      s.rotary_dim = activation == FTH_RELU ? 8 : s.rope_style == FTH_ROPE_NONE ? 0 : 16;
      compare(isa, s);
    }
    for (int32_t rank : {1, 5, 16}) {
      fth_block_shape s = small();
      for (int part = FTH_Q; part <= FTH_DOWN; part++)
        if (part != FTH_CROSS_Q && part != FTH_CROSS_O) s.lora_rank[part] = part % 2 ? rank : rank / 2;
      compare(isa, s);
    }
    fth_block_shape s = small();
    s.weight_type = FTH_BF16;
    s.kv_type = FTH_BF16;
    s.lora_rank[FTH_Q] = s.lora_rank[FTH_V] = 4;
    compare(isa, s);
    s.kv_type = FTH_I8;
    compare(isa, s);
    for (int32_t type : {FTH_I8, FTH_Q8_0, FTH_Q4_0, FTH_F8_E4M3}) {
      s.weight_type = type;
      compare(isa, s);
    }
    s.weight_type = s.kv_type = FTH_BF16;
    s.layers = 1;
    s.depths = 1;
    s.kv_heads = 6;
    s.hidden_size = 50;
    compare(isa, s);
  }
}

TEST(cross_attention_and_relative_bias_match_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    for (bool positions : {false, true}) compare(isa, t5(), positions);
    for (int placement = 0; placement < 8; placement++) {
      fth_block_shape s = t5();
      s.norm_placement = placement;
      s.norm = placement & 1 ? FTH_RMS_NORM : FTH_LAYER_NORM;
      s.norm_per_depth = placement & 2 ? 1 : 0;
      compare(isa, s, true);
    }
    fth_block_shape s = t5();  // the encoder
    s.cross = 0;
    compare(isa, s, true);
    s = t5();  // T5 1.0; a table that all differences fall out of, cross-attention beside rotation
    s.glu = 0;
    s.activation = FTH_RELU;
    s.kv_heads = 2;
    s.relative_width = 1;
    s.relative_center = -5;
    s.rope_style = FTH_ROPE_HALF;
    s.rotary_dim = 16;
    compare(isa, s, true);
    s = t5();
    s.relative_width = 0;
    s.bias = 1;
    for (int part = FTH_Q; part <= FTH_DOWN; part++) s.lora_rank[part] = 1 + part;
    compare(isa, s);
    s = t5();
    s.hidden_size = 50;
    s.weight_type = s.kv_type = FTH_BF16;
    s.attention_scale = 0.25f;
    s.lora_rank[FTH_CROSS_Q] = s.lora_rank[FTH_CROSS_O] = 4;
    compare(isa, s, true);
  }
}

// Prefill in one call, token by token, and with one or four workers: the same bits, and the same bits in the pool.
TEST(bits_do_not_depend_on_company_or_workers) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t kind = 0; kind < 14; kind++) {
      if (test::kCuda && (kind % 7 + kind / 7) % 2 == 1) continue;  // every type, of one shape or the other
      const int32_t type = kTypes[kind % 7 % 6];
      fth_block_shape s = kind < 7 ? small() : t5();
      s.weight_type = type;
      s.kv_type = kind % 7 == 6 ? FTH_I8 : type == FTH_F32 ? FTH_F32 : FTH_BF16;
      s.lora_rank[FTH_Q] = s.lora_rank[FTH_DOWN] = 3;
      test::Context one(isa, 1), four(isa, 4);
      Block block(one, s, 5);
      constexpr int kTokens = 70;
      const int d = s.hidden_size;
      const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, s.kv_type, Scene::kPool};
      int64_t pool_bytes;
      EXPECT_OK(one, fth_kv_bytes(one, &kv, &pool_bytes));
      Guarded<float> a(kTokens * d), b(kTokens * d), c(kTokens * d);
      test::Random random(9);
      random.fill(a, a.size());
      b.copy_from(a);
      c.copy_from(a);
      Guarded<char> pool_a(pool_bytes), pool_b(pool_bytes), pool_c(pool_bytes);
      Scene scene;
      for (Guarded<char>* pool : {&pool_a, &pool_b, &pool_c}) scene.fill_encoders(one, kv, *pool, nullptr, nullptr);
      Guarded<fth_row> rows(kTokens), cross(kTokens);
      for (int t = 0; t < kTokens; t++) {
        rows[t] = scene.append(1, t % 2, t);
        cross[t] = scene.cross(t, t / 9);
      }
      EXPECT_OK(one, run(one, block, scene, kTokens, rows, cross, true, pool_a, a));
      EXPECT_OK(four, run(four, block, scene, kTokens, rows, cross, true, pool_b, b));
      for (int t = 0; t < kTokens; t++)
        EXPECT_OK(one, run(one, block, scene, 1, rows + t, cross + t, true, pool_c, c + t * d));
      EXPECT(memcmp(a, b, sizeof(float) * kTokens * d) == 0, "isa %d type %d", isa, type);
      EXPECT(memcmp(a, c, sizeof(float) * kTokens * d) == 0, "isa %d type %d", isa, type);
      EXPECT(memcmp(pool_a, pool_b, pool_bytes) == 0 && memcmp(pool_a, pool_c, pool_bytes) == 0, "isa %d type %d", isa,
             type);
    }
}

// Encoders of several sequences in one call: every sequence has the bits that it has alone.
TEST(encoders_do_not_depend_on_company_or_workers) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : {FTH_F32, FTH_BF16}) {
      fth_block_shape s = t5();
      s.cross = 0;
      s.relative_width = 41;
      s.weight_type = s.kv_type = type;
      test::Context one(isa, 1), three(isa, 3);
      Block block(one, s, 6);
      const int lengths[] = {40, 1, 90}, d = s.hidden_size;
      const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, type, Scene::kPool};
      int64_t pool_bytes;
      EXPECT_OK(one, fth_kv_bytes(one, &kv, &pool_bytes));
      Guarded<char> pool(pool_bytes);
      Scene scene;
      Guarded<fth_row> rows(131);
      Guarded<float> together(131 * d), alone(together.size());
      test::Random(4).fill(together, together.size());
      alone.copy_from(together);
      int64_t count = 0;
      for (int l = 0; l < 3; l++)
        for (int t = 0; t < lengths[l]; t++, count++) {
          rows[count] = scene.append(l, 0, t);
          rows[count].visible = lengths[l];
        }
      EXPECT_OK(three, run(three, block, scene, count, rows, nullptr, false, pool, together));
      for (int64_t l = 0, at = 0; l < 3; at += lengths[l++])
        EXPECT_OK(one, run(one, block, scene, lengths[l], rows + at, nullptr, true, pool, alone + at * d));
      EXPECT(memcmp(together, alone, size_t(together.size()) * 4) == 0, "isa %d type %d", isa, type);
    }
}

TEST(scratch_is_stated) {
  for (int32_t workers : {1, 3})
    for (int64_t count : {1, 40, 3000})
      for (const fth_block_shape& s : {small(), t5(), everything(FTH_BF16, 36, 1)}) {
        if (test::kCuda && (workers > 1 || count > 40)) continue;
        test::Context packing, ctx(FTH_ISA_AUTO, workers);
        Block block(packing, s, 1);
        const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, s.kv_type, Scene::kPool};
        int64_t stated, pool_bytes;
        EXPECT_OK(ctx, fth_kv_bytes(ctx, &kv, &pool_bytes));
        Scene scene;
        Guarded<char> pool(pool_bytes);
        Guarded<float> hidden(count * s.hidden_size);
        Guarded<fth_row> rows(count);
        for (int64_t i = 0; i < count; i++) {
          rows[i] = test::row();
          rows[i].visible = 1;
        }
        EXPECT_OK(ctx, fth_block_scratch_bytes(ctx, &s, count, &stated));
        EXPECT_OK(ctx, run(ctx, block, scene, count, rows, rows, false, pool, hidden));
        const auto held = [inner = static_cast<const fth_context*>(ctx)] {
          return (long long)(test::kCuda ? inner->device->scratch_bytes() : inner->scratch_bytes);
        };
        EXPECT(held() == stated, "%lld, stated %lld", held(), (long long)stated);
        EXPECT_OK(ctx, run(ctx, block, scene, 1, rows, rows, false, pool, hidden));
        EXPECT(held() == stated, "a smaller step changed it");
      }
}

namespace {

void refuses_shapes(test::Arguments& a, fth_block_shape* s) {
  a.range("shape.layers", s->layers, 1, 1024);
  a.range("shape.depths", s->depths, 1, 1024);
  a.range("shape.hidden_size", s->hidden_size, 1, 1 << 20);
  a.range("shape.intermediate_size", s->intermediate_size, 1, 1 << 20);
  a.range("shape.kv_heads", s->kv_heads, 1, 1024);
  a.range("shape.heads", s->heads, 1, 1024);
  a.refused("shape.heads must be a multiple of kv_heads (2), got 5", s->heads, 5);
  for (int32_t head_dim : {8, 20, 264})
    a.refused("shape.head_dim must be a multiple of 8 in 16..256, got", s->head_dim, head_dim);
  a.weight_type("shape.weight_type", s->weight_type);
  for (int32_t type : {-1, 2, 4}) a.refused("shape.kv_type must be FTH_F32, FTH_BF16 or FTH_I8, got", s->kv_type, type);
  a.range("shape.norm", s->norm, 0, 1);
  a.range("shape.norm_placement", s->norm_placement, 0, 7);
  a.range("shape.norm_per_depth", s->norm_per_depth, 0, 1);
  a.range("shape.activation", s->activation, 0, 4);
  a.range("shape.glu", s->glu, 0, 1);
  a.range("shape.bias", s->bias, 0, 1);
  a.range("shape.rope_style", s->rope_style, 0, 2);
  for (int32_t rotary_dim : {-2, 7, 18})
    a.refused("shape.rotary_dim must be even and in 0..head_dim (16), got", s->rotary_dim, rotary_dim);
  a.range("shape.relative_width", s->relative_width, 0, 1 << 24);
  a.range("shape.cross", s->cross, 0, 1);
  a.range("shape.lora_rank[2]", s->lora_rank[2], 0, 65536);
  if (!s->cross) a.refused("shape.lora_rank[5] must be 0 without cross-attention", s->lora_rank[FTH_CROSS_O], 1);
  else if (!s->glu) a.refused("shape.lora_rank[6] must be 0 without a gate", s->lora_rank[FTH_GATE], 1);
  a.not_negative("shape.norm_eps", s->norm_eps);
  a.finite("shape.attention_scale", s->attention_scale);
}

}  // namespace

TEST(keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t hidden : {5, 36}) {
      const fth_block_shape s = everything(type, hidden, hidden == 5);
      int64_t count = 5, pool_entries = 192, entry_count = 150, bytes = 0;
      const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, s.kv_type, pool_entries};
      test::Arguments a;
      EXPECT_OK(a.ctx, fth_kv_bytes(a.ctx, &kv, &bytes));
      const auto shape = a.shape(s);
      const auto rows = a.input<fth_row>("rows", count);
      const auto cross = a.input<fth_row>("cross_rows", count);
      const auto weights = a.packed("weights", Block::bytes(a.ctx, s), test::kStored);
      const auto entries = a.input<int32_t>("entries", entry_count);
      const auto position = a.optional<int32_t>("entry_position", pool_entries);
      const auto pool = a.packed_output("pool", bytes, test::kStored);
      const auto out = a.output<float>("hidden", count * hidden);
      a.random.fill(out, out.size());
      for (int32_t i = 0; i < entry_count; i++) entries[i] = (i * 37 + 5) % 192;
      for (int32_t i = 0; i < pool_entries; i++) position[i] = i;
      for (int32_t i = 0; i < count; i++) {
        rows[i] = cross[i] = test::row();
        rows[i].depth = i % 3;
        rows[i].position = 66 + i;
        rows[i].visible = 66 + i;
        rows[i].entry = i == 3 ? -1 : entries[65 + i];
        cross[i].list = 80;
        cross[i].visible = 70 - i;
      }
      a.call = [&](fth_context* ctx) {
        return fth_block(ctx, shape, count, rows, cross, weights, entries, entry_count, position, pool_entries, pool,
                         out);
      };
      a.guards();
      a.refusals();
      refuses_shapes(a, shape);
      a.nothing(count);
      a.counts(count);
      a.refused("entry_count must be at least 0, got -1", entry_count, -1);
      for (int64_t bad : {int64_t(-64), int64_t(100), int64_t(1) << 31})
        a.refused("pool_entries must be a multiple of 64 in 0..2147483647, got", pool_entries, bad);
      a.range("rows[1].depth", rows[1].depth, 0, 2);
      a.refused("rows[1].visible must be at least 0, got -1", rows[1].visible, -1);
      a.refused("rows[1].start must be at least 0, got -1", rows[1].start, -1);
      a.refused("rows[1].list and visible must stay inside the 150 entries, got list", rows[1].list, 84);
      a.refused("cross_rows[1].visible must be at least 0, got -1", cross[1].visible, -1);
      a.refused("cross_rows[1].start must be at least 0, got -1", cross[1].start, -1);
      a.refused("cross_rows[1].list and visible must stay inside the 150 entries, got list", cross[1].list, 82);
      a.range("entries[2]", entries[2], 0, 191);
      a.range("entries[149]", entries[149], 0, 191);
      for (int32_t bad : {-2, 192}) a.refused("rows[1].entry must be -1 or in 0..191, got", rows[1].entry, bad);
      a.refused("rows[1].entry must be an entry no other row writes, got", rows[1].entry, rows[0].entry);
      for (int part = 0; part <= FTH_DOWN; part++) shape->lora_rank[part] = 0;
      a.refused("cross_rows must be null without shape.cross", shape->cross, 0);
      shape->layers = shape->heads = shape->kv_heads = 1024;
      shape->head_dim = 256;
      a.refused("pool describes a pool of more than 2^56 bytes", pool_entries, INT32_MAX / 64 * 64);
    }
}

TEST(sizes_keep_to_their_arguments) {
  for (bool scratch : {false, true}) {
    test::Arguments a;
    int64_t count = 10;
    const auto shape = a.shape(everything(FTH_F32, 36, 0));
    const auto bytes = a.output<int64_t>("bytes", 1);
    a.call = [&](fth_context* ctx) {
      return scratch ? fth_block_scratch_bytes(ctx, shape, count, bytes) : fth_block_bytes(ctx, shape, bytes);
    };
    a.guards();
    a.refusals();
    refuses_shapes(a, shape);
    if (scratch) a.counts(count);
    for (int part = 0; part <= FTH_DOWN; part++) shape->lora_rank[part] = 0;
    shape->cross = 0;
    refuses_shapes(a, shape);
  }
}

TEST(packing_keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t glu : {0, 1}) {
      const fth_block_shape s = everything(type, 5, glu);
      for (int32_t part = FTH_Q; part <= FTH_RELATIVE_BIAS; part++)
        for (int32_t kind = FTH_WEIGHT; kind <= FTH_LORA_B; kind++) {
          const bool one = part > FTH_MLP_POST_NORM, norm = part >= FTH_ATTENTION_PRE_NORM && !one;
          if ((part == FTH_GATE && !glu) || (norm && kind > FTH_BIAS) || (one && kind > FTH_WEIGHT)) continue;
          const bool lora = kind >= FTH_LORA_A;
          test::Arguments a;
          int32_t layer = one ? 0 : 1, depth = norm || lora ? 2 : 0, at = part, what = kind, source_type = FTH_BF16;
          float scale = 0.5f;
          const auto shape = a.shape(s);
          const auto source = a.packed("source", Block::size(s, part, kind) * 2, 2);
          const auto weights = a.packed_output("weights", Block::bytes(a.ctx, s), test::kStored);
          a.call = [&](fth_context* ctx) {
            return fth_block_pack(ctx, shape, layer, depth, at, what, scale, source_type, source, weights);
          };
          a.guards();
          a.refusals();
          a.finite("scale", scale);
          if (part <= FTH_DOWN && kind == FTH_WEIGHT) {
            for (int32_t bad : {-1, int32_t(FTH_I8), FTH_F8_E4M3 + 1})
              a.refused("source_type must be FTH_F32, FTH_BF16, FTH_F16, FTH_Q8_0, FTH_Q4_0 or FTH_F8_E4M3, got",
                        source_type, bad);
          } else {
            a.range("source_type", source_type, 0, 2);
          }
          a.range("layer", layer, 0, 1);
          a.range("depth", depth, 0, norm || lora ? 2 : 0);
          a.range("part", at, 0, 19);
          a.range("kind", what, 0, 3);
          char sentence[80];
          if (one) {
            snprintf(sentence, sizeof sentence, "part %d is one FTH_WEIGHT of layer 0", part);
            a.refused(sentence, layer, 1);
            a.refused(sentence, what, FTH_BIAS);
          }
          if (part == FTH_RELATIVE_BIAS)
            a.refused("part 19 needs shape.relative_width > 0", shape->relative_width, 0);
          if (norm && kind == FTH_BIAS)
            a.refused("the bias of a norm needs shape.norm = FTH_LAYER_NORM", shape->norm, FTH_RMS_NORM);
          if (norm) {
            a.refused("kind of a norm must be FTH_WEIGHT or FTH_BIAS, got 2", what, FTH_LORA_A);
            snprintf(sentence, sizeof sentence, "part %d is not used by shape.norm_placement 0, cross 1", part);
            a.refused(sentence, shape->norm_placement, 0);
          }
          if (part <= FTH_DOWN && kind == FTH_BIAS) a.refused("a bias needs shape.bias = 1", shape->bias, 0);
          if (lora) {
            snprintf(sentence, sizeof sentence, "LoRA of part %d needs shape.lora_rank[%d] > 0", part, part);
            a.refused(sentence, shape->lora_rank[part], 0);
          }
          if (part == FTH_Q && kind == FTH_WEIGHT) refuses_shapes(a, shape);
          for (int i = 0; i <= FTH_DOWN; i++) shape->lora_rank[i] = 0;
          if (lora) continue;
          if (part == FTH_GATE) a.refused("part 6 needs shape.glu = 1", shape->glu, 0);
          if (part == FTH_CROSS_Q) a.refused("part 4 needs shape.cross = 1", shape->cross, 0);
          if (part == FTH_CROSS_POST_NORM)
            a.refused("part 14 is not used by shape.norm_placement 7, cross 0", shape->cross, 0);
        }
    }
}

