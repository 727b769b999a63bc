// Backfill against norm, product and rotation in double, entries that must stay as they are, and the refusals.
#include "arguments.h"
#include "storage.h"
#include "simd/scalar.h"

using test::Guarded;

struct Case {
  fth_backfill_shape shape;
  fth_kv_shape kv;
  int64_t count;
};

// Which of the arguments that may be null are given.
struct Given {
  bool gain, norm_bias, bias;
};

// Weights, inputs and a pool. Weights and hidden states are exact in bf16.
struct Model {
  Case c;
  int64_t row, hidden, sets;
  Guarded<float> wk, wv, bk, bv, gain, norm_bias, h, frequency;
  Guarded<fth_row> rows;
  Guarded<int32_t> entry;

  static constexpr int64_t kEntries = 64 * 40;

  explicit Model(const Case& given)
      : c(given),
        row(int64_t(c.kv.kv_heads) * c.kv.head_dim),
        hidden(c.shape.hidden_size),
        sets(int64_t(c.shape.depths) * c.kv.layers),
        wk(sets * row * hidden),
        wv(sets * row * hidden),
        bk(sets * row),
        bv(sets * row),
        gain(sets * hidden),
        norm_bias(sets * hidden),
        h(c.count * hidden),
        frequency(c.shape.rotary_dim / 2),
        rows(c.count),
        entry(c.count * c.shape.depths) {
    test::Random random(uint64_t(hidden * 131 + sets + c.count));
    const auto fill = [&](float* a, int64_t n, float scale) {
      for (int64_t i = 0; i < n; i++) a[i] = float_of_bf16(bf16_of_float(random.uniform() * scale));
    };
    fill(wk, wk.size(), 0.5f);
    fill(wv, wv.size(), 0.5f);
    fill(bk, bk.size(), 2.f);
    fill(bv, bv.size(), 2.f);
    fill(gain, gain.size(), 2.f);
    fill(norm_bias, norm_bias.size(), 0.5f);
    fill(h, h.size(), 3.f);
    for (int64_t i = 0; i < frequency.size(); i++) frequency[i] = powf(1e4f, -float(i) / float(frequency.size()));
    for (int64_t i = 0; i < c.count; i++) { rows[i] = test::row(); rows[i].position = int32_t(random.below(3000)); }
    // 7 is coprime to the number of entries: none occurs twice. Some are skipped.
    for (int64_t i = 0; i < entry.size(); i++) entry[i] = i % 5 == 3 ? -1 : int32_t(i * 7 % kEntries);
  }

  int64_t packed_bytes(test::Context& ctx) const {
    int64_t bytes = 0;
    EXPECT_OK(ctx, fth_backfill_bytes(ctx, &c.shape, &c.kv, &bytes));
    return bytes;
  }
  int64_t pool_bytes(test::Context& ctx) const {
    int64_t bytes = 0;
    EXPECT_OK(ctx, fth_kv_bytes(ctx, &c.kv, &bytes));
    return bytes;
  }
  void pack(test::Context& ctx, char* packed, const Given& given) const {
    for (int32_t d = 0; d < c.shape.depths; d++)
      for (int32_t l = 0; l < c.kv.layers; l++) {
        const int64_t set = int64_t(d) * c.kv.layers + l;
        EXPECT_OK(ctx, fth_backfill_pack(ctx, &c.shape, &c.kv, d, l, FTH_F32, wk + set * row * hidden,
                                         wv + set * row * hidden, given.bias ? bk + set * row : nullptr,
                                         given.bias ? bv + set * row : nullptr,
                                         given.gain ? gain + set * hidden : nullptr,
                                         given.norm_bias ? norm_bias + set * hidden : nullptr, packed));
      }
  }
};

static void compare(int32_t isa, const Case& c, const Given& given) {
  test::Context ctx(isa, 2);
  const Model m(c);
  Guarded<char> packed(m.packed_bytes(ctx)), pool(m.pool_bytes(ctx));
  m.pack(ctx, packed, given);
  const fth_row* rows = c.shape.rope_style == FTH_ROPE_NONE ? nullptr : m.rows.get();
  EXPECT_OK(ctx, fth_backfill(ctx, &c.shape, &c.kv, c.count, rows, m.h, packed, m.frequency, m.entry, pool));

  Guarded<float> k(m.row), v(m.row);
  Guarded<double> normed(m.hidden), want(m.row), bound(m.row);
  for (int64_t i = 0; i < c.count; i++) {
    const float* h = m.h + i * m.hidden;
    double mean = 0, squares = 0;
    if (c.shape.norm == FTH_LAYER_NORM) {
      for (int64_t j = 0; j < m.hidden; j++) mean += h[j];
      mean /= double(m.hidden);
    }
    for (int64_t j = 0; j < m.hidden; j++) squares += (h[j] - mean) * (h[j] - mean);
    for (int64_t j = 0; j < m.hidden; j++)
      normed[j] =
          c.shape.norm < 0 ? h[j] : (h[j] - mean) / sqrt(squares / double(m.hidden) + double(c.shape.norm_eps));
    for (int64_t set = 0; set < m.sets; set++) {
      const int32_t entry = m.entry[i * c.shape.depths + set / c.kv.layers];
      if (entry < 0) continue;
      EXPECT_OK(ctx, fth_kv_read(ctx, &c.kv, int32_t(set % c.kv.layers), 1, &entry, pool, k, v));
      for (int is_v = 0; is_v < 2; is_v++) {
        const float *w = (is_v ? m.wv : m.wk) + set * m.row * m.hidden, *got = is_v ? v : k;
        for (int64_t r = 0; r < m.row; r++) {
          double sum = given.bias ? (is_v ? m.bv : m.bk)[set * m.row + r] : 0, magnitude = fabs(sum);
          for (int64_t j = 0; j < m.hidden; j++) {
            const double scaled = normed[j] * (given.gain ? m.gain[set * m.hidden + j] : 1.f);
            const double shift = given.norm_bias ? m.norm_bias[set * m.hidden + j] : 0;
            sum += w[r * m.hidden + j] * (scaled + shift);
            magnitude += fabs(w[r * m.hidden + j] * scaled) + fabs(w[r * m.hidden + j] * shift);
          }
          want[r] = sum;
          // fp32: sums of hidden terms in product and norm (the norm's in its scale, half of it), biases. bf16: gain *
          // weight and normed input are each rounded to 2^-9, and one of the roundings may fall the other way.
          bound[r] =
              magnitude * (6e-8 * (1.5 * double(m.hidden) + 12) + (c.shape.weight_type == FTH_BF16 ? 0x1p-7 : 0));
        }
        if (!is_v && c.shape.rope_style != FTH_ROPE_NONE)
          for (int64_t head = 0; head < c.kv.kv_heads; head++)
            for (int64_t p = 0; p < m.frequency.size(); p++) {
              const bool half = c.shape.rope_style == FTH_ROPE_HALF;
              const int64_t a = head * c.kv.head_dim + (half ? p : 2 * p), b = a + (half ? m.frequency.size() : 1);
              const double angle = double(float(m.rows[i].position) * m.frequency[p]), x = want[a], y = want[b];
              want[a] = x * cos(angle) - y * sin(angle);
              want[b] = y * cos(angle) + x * sin(angle);
              bound[a] = bound[b] = bound[a] + bound[b] + 2e-7 * (fabs(x) + fabs(y));
            }
        for (int64_t r = 0; r < m.row; r++) {
          double most = 0;  // of the head
          for (int64_t d = r / c.kv.head_dim * c.kv.head_dim; d < (r / c.kv.head_dim + 1) * c.kv.head_dim; d++)
            most = fmax(most, fabs(want[d]) + bound[d]);
          const double stored = c.kv.type == FTH_BF16 ? 0x1p-8 * (fabs(want[r]) + bound[r])
                                : c.kv.type == FTH_I8 ? most / 254 * 1.0001
                                                      : 0;  // rounded to the pool's type
          EXPECT(fabs(got[r] - want[r]) <= bound[r] + stored, "isa %d %s %d of target %d: %g, want %g +- %g", isa,
                 is_v ? "v" : "k", int(r), int(set), got[r], want[r], bound[r]);
        }
      }
    }
  }
}

TEST(matches_the_formula) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : {FTH_F32, FTH_BF16})
      for (int32_t norm : {-1, int(FTH_RMS_NORM), int(FTH_LAYER_NORM)})
        for (int32_t style : {FTH_ROPE_NONE, FTH_ROPE_HALF, FTH_ROPE_INTERLEAVED})
          for (int64_t count : {1, 20}) {
            const int32_t rotary = style == FTH_ROPE_NONE ? 0 : 16;
            const fth_kv_shape kv{2, 3, 24, count == 1 ? FTH_F32 : type, Model::kEntries};
            const bool layer = norm == FTH_LAYER_NORM, none = norm < 0, half = style == FTH_ROPE_HALF;
            compare(isa, {{37, 2, type, norm, style, rotary, 1e-5f, 0}, kv, count}, {!none, layer, half});
            compare(isa, {{64, 1, type, norm, style, rotary, 1e-5f, 0}, kv, count}, {false, half && !none, !half});
            const fth_kv_shape int8{2, 3, 24, FTH_I8, Model::kEntries};
            compare(isa, {{37, 2, type, norm, style, rotary, 1e-5f, 0}, int8, count}, {!none, layer, half});
          }
}

// The pool is that of norm, one linear layer, rotation and write, called one by one, to the last bit.
static void compare_with_parts(const Case& c, const Given& given) {
  test::Context ctx(FTH_ISA_AUTO, 2);
  const Model m(c);
  Guarded<char> packed(m.packed_bytes(ctx)), pool(m.pool_bytes(ctx)), want(pool.size());
  m.pack(ctx, packed, given);
  const bool turns = c.shape.rope_style != FTH_ROPE_NONE;
  EXPECT_OK(ctx, fth_backfill(ctx, &c.shape, &c.kv, c.count, turns ? m.rows.get() : nullptr, m.h, packed, m.frequency,
                              m.entry, pool));

  const int64_t out = m.sets * 2 * m.row;
  Guarded<float> w(out * m.hidden), bias(out), normed(c.count * m.hidden), y(c.count * out), k(c.count * m.row),
      v(c.count * m.row);
  for (int64_t r = 0; r < out; r++) {
    const int64_t set = r / (2 * m.row), in_set = set * m.row + r % m.row;
    const bool is_v = r / m.row % 2 != 0;
    double sum = given.bias ? double((is_v ? m.bv : m.bk)[in_set]) : 0;
    for (int64_t j = 0; j < m.hidden; j++) {
      const float weight = (is_v ? m.wv : m.wk)[in_set * m.hidden + j];
      if (given.norm_bias) sum += double(weight) * double(m.norm_bias[set * m.hidden + j]);
      w[r * m.hidden + j] = given.gain ? weight * m.gain[set * m.hidden + j] : weight;
    }
    bias[r] = float(sum);
  }
  const fth_norm_shape norm{c.shape.norm, c.shape.hidden_size, 1, c.shape.norm_eps};
  if (c.shape.norm >= 0) EXPECT_OK(ctx, fth_norm(ctx, &norm, c.count, nullptr, m.h, nullptr, nullptr, normed));
  const fth_linear_shape linear{c.shape.hidden_size, int32_t(out), c.shape.weight_type, FTH_IDENTITY, 0,
                                FTH_RESIDUAL_NONE, 0, 0};
  int64_t bytes = 0;
  EXPECT_OK(ctx, fth_linear_bytes(ctx, &linear, &bytes));
  Guarded<char> linear_packed(bytes);
  EXPECT_OK(ctx, fth_linear_pack(ctx, &linear, 0, out, FTH_F32, w, linear_packed));
  EXPECT_OK(ctx, fth_linear(ctx, &linear, c.count, nullptr, c.shape.norm >= 0 ? normed : m.h, linear_packed, bias,
                            nullptr, nullptr, nullptr, y));
  const fth_rope_shape rope{c.shape.rope_style, c.kv.kv_heads, c.kv.head_dim, c.shape.rotary_dim};
  Guarded<fth_row> rows(c.count);
  for (int64_t set = 0; set < m.sets; set++) {
    for (int64_t i = 0; i < c.count; i++) {
      rows[i] = m.rows[i];
      rows[i].entry = m.entry[i * c.shape.depths + set / c.kv.layers];
      memcpy(k + i * m.row, y + i * out + set * 2 * m.row, sizeof(float) * size_t(m.row));
      memcpy(v + i * m.row, y + i * out + (set * 2 + 1) * m.row, sizeof(float) * size_t(m.row));
    }
    if (turns) EXPECT_OK(ctx, fth_rope(ctx, &rope, c.count, rows, m.frequency, k));
    EXPECT_OK(ctx, fth_kv_write(ctx, &c.kv, int32_t(set % c.kv.layers), c.count, rows, k, v, want));
  }
  EXPECT(memcmp(pool, want, size_t(pool.size())) == 0,
         "weights %d, pool %d, %d rows, hidden %d, %d heads of %d, style %d turns %d", c.shape.weight_type, c.kv.type,
         int(c.count), c.shape.hidden_size, c.kv.kv_heads, c.kv.head_dim, c.shape.rope_style, c.shape.rotary_dim);
}

TEST(has_the_bits_of_its_parts) {
  struct Heads { int32_t count, dim, style, rotary; };
  // On devices: one strip of W or several to a head, which turns as a whole or in part, in pairs that would lie in one
  // strip or in two; then what goes through memory, odd numbers of such pairs and a head that is no whole strips.
  const Heads all[] = {{2, 64, FTH_ROPE_NONE, 0},          {3, 64, FTH_ROPE_HALF, 64},
                       {1, 64, FTH_ROPE_HALF, 10},         {2, 64, FTH_ROPE_INTERLEAVED, 24},
                       {2, 128, FTH_ROPE_HALF, 128},       {1, 128, FTH_ROPE_HALF, 100},
                       {1, 128, FTH_ROPE_HALF, 90},        {1, 128, FTH_ROPE_HALF, 32},
                       {1, 128, FTH_ROPE_INTERLEAVED, 70}, {1, 192, FTH_ROPE_HALF, 136},
                       {1, 256, FTH_ROPE_HALF, 256},       {2, 80, FTH_ROPE_HALF, 80}};
  const int64_t counts[] = {1, 9, 20, 40, 70, 17, 135};
  int number = 0;
  for (const Heads& heads : all)
    for (int32_t pool : {FTH_F32, FTH_BF16, FTH_I8})
      for (int32_t type : {int32_t(FTH_BF16), kTypes[number % 5]}) {
        const int32_t norm = number % 3 - 1;
        const int64_t count = counts[number % 7];
        number++;
        compare_with_parts({{40, 1 + number % 2, type, norm, heads.style, heads.rotary, 1e-5f, 0},
                            {2, heads.count, heads.dim, pool, Model::kEntries},
                            count},
                           {norm >= 0 && number % 2 == 0, norm == FTH_LAYER_NORM, number % 4 != 0});
      }
}

TEST(sums_in_splits_have_the_bits_of_their_parts) {
  for (int64_t count : {6, 70, 150})
    compare_with_parts({{600, 1, FTH_BF16, FTH_RMS_NORM, FTH_ROPE_HALF, 128, 1e-5f, 0},
                        {2, 1, 128, FTH_BF16, Model::kEntries},
                        count},
                       {true, false, true});
}

// Reads every entry of every layer.
static void read_all(test::Context& ctx, const Model& m, const char* pool, float* k, float* v) {
  Guarded<int32_t> all(m.c.kv.entries);
  for (int64_t i = 0; i < all.size(); i++) all[i] = int32_t(i);
  for (int32_t l = 0; l < m.c.kv.layers; l++)
    EXPECT_OK(ctx, fth_kv_read(ctx, &m.c.kv, l, all.size(), all, pool, k + l * all.size() * m.row,
                               v + l * all.size() * m.row));
}

TEST(bits_do_not_depend_on_workers_or_company) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t type : kTypes) {
      // Wide enough that 1100 rows are more than one slab.
      const Case c{
          {16, 1, type, FTH_RMS_NORM, FTH_ROPE_HALF, 16, 1e-5f, 0}, {68, 2, 16, FTH_F32, Model::kEntries}, 1100};
      test::Context single(isa, 1), several(isa, 4);
      const Model m(c);
      Guarded<char> packed(m.packed_bytes(single)), one(m.pool_bytes(single)), many(one.size()), alone(one.size());
      m.pack(single, packed, {true, false, true});
      EXPECT_OK(single, fth_backfill(single, &c.shape, &c.kv, c.count, m.rows, m.h, packed, m.frequency, m.entry, one));
      EXPECT_OK(several,
                fth_backfill(several, &c.shape, &c.kv, c.count, m.rows, m.h, packed, m.frequency, m.entry, many));
      EXPECT(memcmp(one, many, size_t(one.size())) == 0, "isa %d type %d", isa, type);
      const int64_t i = 1099;  // in the last slab; its entry is not -1
      EXPECT_OK(single, fth_backfill(single, &c.shape, &c.kv, 1, m.rows + i, m.h + i * m.hidden, packed, m.frequency,
                                     m.entry + i, alone));
      Guarded<float> k(m.row), v(m.row), k_alone(m.row), v_alone(m.row);
      for (int32_t l = 0; l < c.kv.layers; l += 67) {
        EXPECT_OK(single, fth_kv_read(single, &c.kv, l, 1, m.entry + i, one, k, v));
        EXPECT_OK(single, fth_kv_read(single, &c.kv, l, 1, m.entry + i, alone, k_alone, v_alone));
        EXPECT(memcmp(k, k_alone, sizeof(float) * size_t(m.row)) == 0 &&
               memcmp(v, v_alone, sizeof(float) * size_t(m.row)) == 0);
      }
    }
}

TEST(only_named_entries_change) {
  const Case c{{20, 2, FTH_F32, FTH_RMS_NORM, FTH_ROPE_NONE, 0, 1e-5f, 0}, {2, 1, 16, FTH_BF16, Model::kEntries}, 50};
  test::Context ctx(FTH_ISA_AUTO, 2);
  const Model m(c);
  Guarded<char> packed(m.packed_bytes(ctx)), pool(m.pool_bytes(ctx));
  m.pack(ctx, packed, {true, false, false});
  memset(pool, 0x3f, size_t(pool.size()));
  const int64_t floats = c.kv.layers * c.kv.entries * m.row;
  Guarded<float> k(floats), v(floats), k_before(floats), v_before(floats);
  Guarded<bool> named(c.kv.entries);
  read_all(ctx, m, pool, k_before, v_before);
  EXPECT_OK(ctx, fth_backfill(ctx, &c.shape, &c.kv, c.count, m.rows, m.h, packed, nullptr, m.entry, pool));
  read_all(ctx, m, pool, k, v);
  for (int64_t i = 0; i < m.entry.size(); i++)
    if (m.entry[i] >= 0) named[m.entry[i]] = true;
  for (int64_t i = 0; i < floats; i++) {
    const bool may = named[i / m.row % c.kv.entries];
    EXPECT(may || k[i] == k_before[i], "entry %d", int(i / m.row % c.kv.entries));
    EXPECT(may || v[i] == v_before[i], "entry %d", int(i / m.row % c.kv.entries));
  }
}

static void refuses_shapes(test::Arguments& a, fth_backfill_shape* s, fth_kv_shape* kv) {
  a.range("shape.hidden_size", s->hidden_size, 1, 1 << 24);
  a.range("shape.depths", s->depths, 1, 65536);
  a.weight_type("shape.weight_type", s->weight_type);
  a.range("shape.norm", s->norm, -1, 1);
  a.range("shape.rope_style", s->rope_style, 0, 2);
  a.range("shape.rotary_dim", s->rotary_dim, 0, 24);
  a.refused("shape.rotary_dim must be even, got 3", s->rotary_dim, 3);
  a.not_negative("shape.norm_eps", s->norm_eps);
  a.range("shape.reserved", s->reserved, 0, 0);
  a.range("kv.layers", kv->layers, 1, 65536);
  a.refused("shape.depths * kv.layers * 2 * kv.kv_heads * kv.head_dim must be at most 16777216", *kv,
            fth_kv_shape{65536, 65536, 256, FTH_F32, 0});
}

TEST(keeps_to_its_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t hidden : {1, 7, 35})
      for (int32_t norm : {-1, int(FTH_RMS_NORM)}) {
        const fth_kv_shape pool_shape{2, 3, 24, type, 64};
        const fth_backfill_shape s{hidden, 2, type, norm, FTH_ROPE_HALF, 16, 1e-5f, 0};
        const int64_t row = 3 * 24, element = type == FTH_F32 ? 4 : 2;
        int64_t pool_bytes = 0, count = 5;
        test::Arguments size, pack, run;
        EXPECT_OK(size.ctx, fth_kv_bytes(size.ctx, &pool_shape, &pool_bytes));
        const auto size_shape = size.shape(s);
        const auto size_kv = size.shape(pool_shape, "kv");
        const auto bytes = size.output<int64_t>("bytes", 1);
        size.call = [&](fth_context* ctx) { return fth_backfill_bytes(ctx, size_shape, size_kv, bytes); };
        EXPECT_OK(size.ctx, size.call(size.ctx));
        const int64_t packed_bytes = bytes[0];

        int32_t depth = 1, layer = 1, source_type = type;
        const auto pack_shape = pack.shape(s);
        const auto pack_kv = pack.shape(pool_shape, "kv");
        const auto wk = pack.packed("wk", row * hidden * element, element);
        const auto wv = pack.packed("wv", row * hidden * element, element);
        const auto bk = pack.packed("bk", row * element, element, false);
        const auto bv = pack.packed("bv", row * element, element, false);
        const auto gain = pack.optional<float>("gain", norm < 0 ? 0 : hidden);
        const auto norm_bias = pack.optional<float>("norm_bias", norm < 0 ? 0 : hidden);
        const auto target = pack.packed_output("packed", packed_bytes, test::kStored);
        pack.random.fill(gain, gain.size());
        pack.random.fill(norm_bias, norm_bias.size());
        pack.call = [&](fth_context* ctx) {
          return fth_backfill_pack(ctx, pack_shape, pack_kv, depth, layer, source_type, wk, wv, bk, bv,
                                   norm < 0 ? nullptr : gain.now(), norm < 0 ? nullptr : norm_bias.now(), target);
        };
        pack.guards();

        const auto shape = run.shape(s);
        const auto kv = run.shape(pool_shape, "kv");
        const auto rows = run.input<fth_row>("rows", count);
        const auto h = run.input<float>("h", count * hidden);
        const auto packed = run.packed("packed", packed_bytes, test::kStored);
        const auto frequency = run.input<float>("frequency", 8);
        const auto entry = run.input<int32_t>("entry", count * 2);
        const auto pool = run.packed_output("pool", pool_bytes, test::kStored);
        run.random.fill(h, h.size());
        run.random.fill(frequency, 8);
        for (int32_t i = 0; i < count; i++) {
          rows[i] = test::row();
          rows[i].position = 11 * i;
          entry[2 * i] = 63 - i;
          entry[2 * i + 1] = i == 1 ? -1 : i;
        }
        run.call = [&](fth_context* ctx) {
          return fth_backfill(ctx, shape, kv, count, rows, h, packed, frequency, entry, pool);
        };
        run.guards();
        if (hidden != 7) continue;
        size.refusals();
        refuses_shapes(size, size_shape, size_kv);
        pack.refusals();
        refuses_shapes(pack, pack_shape, pack_kv);
        pack.range("depth", depth, 0, 1);
        pack.range("layer", layer, 0, 1);
        pack.range("source_type", source_type, 0, 2);
        if (norm < 0) {
          const auto given = [&](const float* g, const float* b) {
            return fth_backfill_pack(pack.ctx, pack_shape, pack_kv, 0, 0, type, wk, wv, bk, bv, g, b, target);
          };
          EXPECT_REFUSED_AS(pack.ctx, "gain must be null when shape.norm is -1", given(h, nullptr));
          EXPECT_REFUSED_AS(pack.ctx, "norm_bias must be null when shape.norm is -1", given(nullptr, h));
        }
        run.refusals();
        refuses_shapes(run, shape, kv);
        run.nothing(count);
        run.counts(count, (1 << 30) / 2);
        for (int32_t bad : {-2, 64}) run.refused("entry[5] must be -1 or in 0..63, got", entry[5], bad);
        run.refused("entry[8] must be an entry no other row writes, got 63 a second time", entry[8], 63);
        // Without rotation neither is read.
        shape->rope_style = FTH_ROPE_NONE;
        EXPECT_OK(run.ctx, fth_backfill(run.ctx, shape, kv, count, nullptr, h, packed, nullptr, entry, pool));
      }
}
