// The recursion against the same passes made one by one of gate, block and scatter-add, which have tests of their own:
// the bits are the same. Rows stop at different depths, several sequences come with several tokens each, and K and V of
// deeper passes are kept per depth, or shared with pass 0.
#include <vector>

#include "arguments.h"

using test::Guarded;

namespace {

constexpr int32_t kHidden = 32, kSequences = 3, kTokens = 4, kBefore = 5;  // tokens in a call, and already there
constexpr int64_t kCapacity = 16;                                           // items of a list

fth_block_shape block_shape(int32_t depths, int32_t type, bool own) {
  fth_block_shape s{};
  s.layers = 2;
  s.depths = depths;
  s.hidden_size = kHidden;
  s.intermediate_size = 48;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = 16;
  s.weight_type = type;
  s.kv_type = type == FTH_F32 ? FTH_F32 : FTH_BF16;
  s.norm = FTH_RMS_NORM;
  s.norm_placement = FTH_NORM_PRE;
  s.norm_per_depth = own;
  s.activation = FTH_SILU;
  s.glu = 1;
  s.rope_style = FTH_ROPE_HALF;
  s.rotary_dim = 16;
  if (own) s.lora_rank[FTH_Q] = s.lora_rank[FTH_DOWN] = 3;
  s.norm_eps = 1e-5f;
  s.attention_scale = 0.25f;
  return s;
}
fth_gate_shape gate_shape(int32_t depths) {
  fth_gate_shape s{};
  s.hidden_size = kHidden;
  s.outputs = 1;
  s.depths = depths;
  s.function = FTH_GATE_SIGMOID;
  s.temperature = s.alpha = 1;
  return s;
}

// A model, the K,V that are there before the call, and its rows.
struct Case {
  fth_recursion_shape shape;
  fth_block_shape block;
  fth_gate_shape gate;
  bool routed, shared;
  int64_t count = kSequences * kTokens, pool_entries = 256, pool_bytes = 0;
  std::vector<char> block_weights, gate_weights, pool;
  std::vector<int32_t> entries;
  std::vector<fth_row> rows;
  std::vector<float> hidden;

  Case(test::Context& ctx, const fth_recursion_shape& recursion, int32_t type, bool own, bool with_gate, bool share)
      : shape(recursion), block(block_shape(recursion.depths, type, own)), gate(gate_shape(recursion.depths)),
        routed(with_gate), shared(share), entries(size_t(recursion.depths * kSequences) * kCapacity),
        rows(size_t(recursion.depths * count)), hidden(size_t(count * kHidden)) {
    test::Random random(uint64_t(recursion.depths * 7 + type + own));
    pack(ctx, random);
    const fth_kv_shape kv{block.layers, block.kv_heads, block.head_dim, block.kv_type, pool_entries};
    EXPECT_OK(ctx, fth_kv_bytes(ctx, &kv, &pool_bytes));
    pool.resize(size_t(pool_bytes));
    fill(ctx, kv, random);
    for (float& h : hidden) h = random.uniform();
    int32_t next = 0;
    for (int32_t d = 0; d < shape.depths; d++)
      for (int32_t s = 0; s < kSequences; s++)
        for (int64_t i = 0; i < kCapacity; i++)  // what is behind the items of a list is no entry
          entries[size_t(list(d, s) + i)] = i < kBefore ? next++ : -77;
    for (int32_t d = 0; d < shape.depths; d++)
      for (int32_t i = 0; i < count; i++) {
        fth_row& row = rows[size_t(d * count + i)];
        const bool appends = d == 0 || !shared;
        row = test::row();
        row.depth = 99;  // not read
        row.list = list(appends ? d : 0, i / kTokens);
        row.position = kBefore + i % kTokens;
        row.visible = appends ? kBefore : kBefore + i % kTokens + 1;
        row.entry = appends ? next++ : -1;
      }
  }

  static int64_t list(int32_t depth, int32_t sequence) { return (depth * kSequences + sequence) * kCapacity; }

  void pack(test::Context& ctx, test::Random& random) {
    int64_t bytes = 0;
    EXPECT_OK(ctx, fth_block_bytes(ctx, &block, &bytes));
    block_weights.resize(size_t(bytes));
    const auto put = [&](int32_t layer, int32_t depth, int32_t part, int32_t kind, int64_t n, float spread, float base) {
      std::vector<float> source(static_cast<size_t>(n));
      for (float& v : source) v = base + spread * random.uniform();
      EXPECT_OK(ctx, fth_block_pack(ctx, &block, layer, depth, part, kind, 1, FTH_F32, source.data(),
                                    block_weights.data()));
    };
    const int64_t d = kHidden, q = 64, kv = 32, f = 48;
    const int64_t size[9] = {q * d, kv * d, kv * d, d * q, 0, 0, f * d, f * d, d * f};
    for (int32_t layer = 0; layer < block.layers; layer++) {
      for (int32_t part : {FTH_Q, FTH_K, FTH_V, FTH_O, FTH_GATE, FTH_UP, FTH_DOWN})
        put(layer, 0, part, FTH_WEIGHT, size[part], 0.3f, 0);
      for (int32_t depth = 0; depth < (block.norm_per_depth ? block.depths : 1); depth++)
        for (int32_t part : {FTH_ATTENTION_PRE_NORM, FTH_MLP_PRE_NORM}) put(layer, depth, part, FTH_WEIGHT, d, 0.2f, 1);
      for (int32_t depth = 0; depth < block.depths; depth++) {
        if (block.lora_rank[FTH_Q] == 0) break;
        put(layer, depth, FTH_Q, FTH_LORA_A, 3 * d, 0.3f, 0);
        put(layer, depth, FTH_Q, FTH_LORA_B, q * 3, 0.3f, 0);
        put(layer, depth, FTH_DOWN, FTH_LORA_A, 3 * f, 0.3f, 0);
        put(layer, depth, FTH_DOWN, FTH_LORA_B, d * 3, 0.3f, 0);
      }
    }
    put(0, 0, FTH_ROPE_FREQUENCY, FTH_WEIGHT, 8, 0.5f, 0.5f);
    EXPECT_OK(ctx, fth_gate_bytes(ctx, &gate, &bytes));
    gate_weights.resize(size_t(bytes));
    for (int32_t depth = 0; depth < gate.depths; depth++) {
      std::vector<float> source(kHidden);
      for (float& v : source) v = random.uniform();
      EXPECT_OK(ctx, fth_gate_pack(ctx, &gate, depth, FTH_GATE_W1, FTH_F32, source.data(), gate_weights.data()));
    }
  }

  void fill(test::Context& ctx, const fth_kv_shape& kv, test::Random& random) {
    std::vector<float> k(size_t(pool_entries * 32)), v(k.size());
    std::vector<fth_row> every(size_t(pool_entries), test::row());
    for (int32_t i = 0; i < pool_entries; i++) every[size_t(i)].entry = i;
    for (int32_t layer = 0; layer < kv.layers; layer++) {
      for (float& x : k) x = random.uniform();
      for (float& x : v) x = random.uniform();
      EXPECT_OK(ctx, fth_kv_write(ctx, &kv, layer, pool_entries, every.data(), k.data(), v.data(), pool.data()));
    }
  }

  // Rows [first, first + n) of every pass, as the call takes them.
  std::vector<fth_row> part(int64_t first, int64_t n) const {
    std::vector<fth_row> all;
    for (int32_t d = 0; d < shape.depths; d++)
      all.insert(all.end(), rows.begin() + d * count + first, rows.begin() + d * count + first + n);
    return all;
  }
};

struct Result {
  std::vector<float> hidden;
  std::vector<char> pool;
  std::vector<int32_t> passes;
};

Result together(test::Context& ctx, const Case& c, int64_t first, int64_t n) {
  Result r{{c.hidden.begin() + first * kHidden, c.hidden.begin() + (first + n) * kHidden}, c.pool,
           std::vector<int32_t>(size_t(n), -1)};
  const std::vector<fth_row> rows = c.part(first, n);
  EXPECT_OK(ctx, fth_recursion(ctx, &c.shape, &c.block, c.routed ? &c.gate : nullptr, n, rows.data(),
                               c.block_weights.data(), c.routed ? c.gate_weights.data() : nullptr, c.entries.data(),
                               int64_t(c.entries.size()), nullptr, c.pool_entries, r.pool.data(), r.hidden.data(),
                               r.passes.data()));
  return r;
}

Result one_by_one(test::Context& ctx, const Case& c) {
  Result r{c.hidden, c.pool, std::vector<int32_t>(size_t(c.count), 0)};
  std::vector<int32_t> entries(c.entries), alive;
  for (int32_t i = 0; i < c.count; i++) alive.push_back(i);
  for (int32_t d = 0; d < c.shape.depths && !alive.empty(); d++) {
    std::vector<float> x(alive.size() * kHidden), gate(alive.size());
    const auto gather = [&] {
      EXPECT_OK(ctx, fth_gather(ctx, kHidden, c.count, int64_t(alive.size()), alive.data(), r.hidden.data(), x.data()));
    };
    if (c.routed) {
      std::vector<fth_row> asked(alive.size(), test::row());
      std::vector<int32_t> choice(alive.size()), going;
      std::vector<float> gates;
      for (fth_row& row : asked) row.depth = d;
      gather();
      EXPECT_OK(ctx, fth_gate(ctx, &c.gate, int64_t(alive.size()), asked.data(), x.data(), c.gate_weights.data(),
                              nullptr, nullptr, nullptr, gate.data(), choice.data()));
      for (size_t i = 0; i < alive.size(); i++)
        if (d == 0 || choice[i] == c.shape.going) {
          going.push_back(alive[i]);
          gates.push_back(gate[i]);
        }
      alive = going;
      gate = gates;
    }
    if (alive.empty()) break;
    std::vector<fth_row> step;
    std::vector<int64_t> length(size_t(c.shape.depths * kSequences), kBefore);
    for (int32_t i : alive) {
      fth_row row = c.rows[size_t(d * c.count + i)];
      row.depth = d;
      if (row.entry >= 0) {
        int64_t& items = length[size_t(row.list / kCapacity)];
        entries[size_t(row.list + items)] = row.entry;
        row.visible = int32_t(++items);
      }
      step.push_back(row);
      r.passes[size_t(i)] = d + 1;
    }
    gather();
    for (int32_t& entry : entries) entry = entry < 0 ? 0 : entry;
    EXPECT_OK(ctx, fth_block(ctx, &c.block, int64_t(alive.size()), step.data(), nullptr, c.block_weights.data(),
                             entries.data(), int64_t(entries.size()), nullptr, c.pool_entries, r.pool.data(),
                             x.data()));
    if (c.shape.update == FTH_UPDATE_REPLACE)
      EXPECT_OK(ctx, fth_scatter(ctx, kHidden, c.count, int64_t(alive.size()), alive.data(), x.data(),
                                 r.hidden.data()));
    else
      EXPECT_OK(ctx, fth_scatter_add(ctx, kHidden, c.count, int64_t(alive.size()), alive.data(),
                                     c.shape.update == FTH_UPDATE_ADD_GATED ? gate.data() : nullptr, x.data(),
                                     r.hidden.data()));
  }
  return r;
}

template <class F>
void each_case(F body) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa, 2);
    for (int32_t depths : {1, 3})
      for (int32_t update : {FTH_UPDATE_REPLACE, FTH_UPDATE_ADD, FTH_UPDATE_ADD_GATED})
        for (int options = 0; options < 8; options++) {
          const bool routed = options & 1, shared = options & 2, own = options & 4;
          if (update == FTH_UPDATE_ADD_GATED && !routed) continue;
          const int32_t type = own ? FTH_BF16 : FTH_F32, going = update == FTH_UPDATE_REPLACE ? 0 : 1;
          body(ctx, Case(ctx, {depths, update, going, 0}, type, own, routed, shared));
        }
  }
}

}  // namespace

TEST(gives_the_bits_of_single_passes) {
  bool stopped = false, went_on = false;
  each_case([&](test::Context& ctx, const Case& c) {
    const Result all = together(ctx, c, 0, c.count), want = one_by_one(ctx, c);
    EXPECT(all.passes == want.passes);
    EXPECT(all.hidden == want.hidden, "depths %d, update %d, routed %d, shared %d", c.shape.depths, c.shape.update,
           c.routed, c.shared);
    EXPECT(all.pool == want.pool);
    for (int32_t passes : all.passes) {
      stopped = stopped || (c.shape.depths == 3 && passes == 1);
      went_on = went_on || (c.routed && passes == 3);
    }
  });
  EXPECT(stopped && went_on);
}

TEST(rows_of_a_sequence_do_not_depend_on_the_others) {
  each_case([&](test::Context& ctx, const Case& c) {
    const Result all = together(ctx, c, 0, c.count), alone = together(ctx, c, kTokens, kTokens);
    for (int64_t i = 0; i < kTokens; i++) EXPECT(alone.passes[size_t(i)] == all.passes[size_t(kTokens + i)]);
    EXPECT(memcmp(alone.hidden.data(), &all.hidden[kTokens * kHidden], sizeof(float) * kTokens * kHidden) == 0);
  });
}

TEST(keeps_to_its_arguments) {
  test::Context made;
  const Case c(made, {3, FTH_UPDATE_ADD_GATED, 1, 0}, FTH_F32, false, true, false);
  int64_t count = c.count, pool_entries = c.pool_entries, entry_count = int64_t(c.entries.size());
  test::Arguments a;
  const auto shape = a.shape(c.shape);
  const auto block = a.shape(c.block, "block");
  const auto gate = a.shape(c.gate, "gate");
  const auto rows = a.input<fth_row>("rows", 3 * count);
  const auto block_weights = a.packed("block_weights", int64_t(c.block_weights.size()), test::kStored);
  const auto gate_weights = a.packed("gate_weights", int64_t(c.gate_weights.size()), test::kStored);
  const auto entries = a.input<int32_t>("entries", entry_count);
  const auto position = a.optional<int32_t>("entry_position", pool_entries);
  const auto pool = a.packed_output("pool", c.pool_bytes, test::kStored);
  const auto hidden = a.output<float>("hidden", count * kHidden);
  const auto passes = a.output<int32_t>("passes", count);
  for (int64_t i = 0; i < rows.size(); i++) rows[i] = c.rows[size_t(i)];
  for (int64_t i = 0; i < entry_count; i++) entries[i] = c.entries[size_t(i)];
  for (int64_t i = 0; i < pool_entries; i++) position[i] = int32_t(i);
  memcpy(block_weights.get(), c.block_weights.data(), c.block_weights.size());
  memcpy(gate_weights.get(), c.gate_weights.data(), c.gate_weights.size());
  a.random.fill(hidden, hidden.size());
  a.call = [&](fth_context* ctx) {
    return fth_recursion(ctx, shape, block, gate, count, rows, block_weights, gate_weights, entries, entry_count,
                         position, pool_entries, pool, hidden, passes);
  };
  a.guards();
  a.nothing(count);
  a.range("shape.depths", shape->depths, 1, 3);
  a.range("shape.update", shape->update, 0, 2);
  a.range("shape.going", shape->going, 0, 1);
  a.range("shape.reserved", shape->reserved, 0, 0);
  a.refused("gate.depths must be 1 or at least shape.depths (3), got 2", gate->depths, 2);
  a.refused("gate.hidden_size must be block.hidden_size (32), got 33", gate->hidden_size, 33);
  a.refused("shape.hidden_size", block->hidden_size, 0);
  a.refused("entry_count must be at least 0, got -1", entry_count, -1);
  a.refused("pool_entries must be a multiple of 64 in 0..2147483647, got", pool_entries, 100);
  a.refused("rows[2].entry must be in -1..255, got 256", rows[2].entry, 256);
  a.refused("rows[30].entry must be an entry no other row writes, got", rows[30].entry, rows[2].entry);
  a.refused("rows[11].visible must be at least 0, got -1", rows[11].visible, -1);
  a.refused("rows[35] must have room for item", rows[35].visible, 400);
  a.refused("rows[35] must have room for item", rows[35].list, entry_count);
  a.range("entries[1]", entries[1], 0, 255);
}
