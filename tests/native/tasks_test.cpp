// On a device, steps and recursions of few rows in one launch against the same operations launched one by one: the bits
// are the same, of the states and of what is stored. And out of a graph, with rows and lists as they are at its launch.
#include <algorithm>
#include <vector>

#include "context.h"
#include "test.h"

namespace {

constexpr int32_t kDepths = 3, kCapacity = 700, kEntries = 6 * 704;  // of a list; of the pool

// A block, by default of narrow layers in bf16.
fth_block_shape narrow() {
  fth_block_shape s{};
  s.layers = 2;
  s.depths = kDepths;
  s.hidden_size = 72;
  s.intermediate_size = 40;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = 16;
  s.weight_type = s.kv_type = FTH_BF16;
  s.norm_placement = FTH_NORM_PRE;
  s.norm_per_depth = 1;
  s.activation = FTH_SILU;
  s.glu = 1;
  s.rope_style = FTH_ROPE_HALF;
  s.rotary_dim = 16;
  s.norm_eps = 1e-5f;
  s.attention_scale = 0.25f;
  return s;
}

// Random weights and K,V, in memory that the device reaches.
struct Model {
  fth_block_shape shape;
  fth_gate_shape gate{};
  std::vector<char> weights, gate_weights, pool;
  std::vector<int32_t> lists;  // [6][kCapacity]

  Model(test::Context& ctx, const fth_block_shape& s) : shape(s), lists(6 * kCapacity) {
    test::Random random(uint64_t(s.hidden_size + s.weight_type));
    int64_t bytes = 0;
    EXPECT_OK(ctx, fth_block_bytes(ctx, &shape, &bytes));
    weights.resize(size_t(bytes));
    for (int32_t layer = 0; layer < s.layers; layer++)
      for (int32_t part = FTH_Q; part <= FTH_MLP_POST_NORM; part++)
        for (int32_t kind = FTH_WEIGHT; kind <= FTH_LORA_B; kind++)
          for (int32_t depth = 0; depth < sets(part, kind); depth++) pack(ctx, random, layer, depth, part, kind);
    if (s.rope_style != FTH_ROPE_NONE) pack(ctx, random, 0, 0, FTH_ROPE_FREQUENCY, FTH_WEIGHT);
    if (s.relative_width > 0) pack(ctx, random, 0, 0, FTH_RELATIVE_BIAS, FTH_WEIGHT);
    gate.hidden_size = s.hidden_size;
    gate.outputs = 1;
    gate.depths = kDepths;
    gate.function = FTH_GATE_SIGMOID;
    gate.temperature = gate.alpha = 1;
    EXPECT_OK(ctx, fth_gate_bytes(ctx, &gate, &bytes));
    gate_weights.resize(size_t(bytes));
    for (int32_t depth = 0; depth < kDepths; depth++) {
      const std::vector<float> source = numbers(random, s.hidden_size, 1, 0);
      EXPECT_OK(ctx, fth_gate_pack(ctx, &gate, depth, FTH_GATE_W1, FTH_F32, source.data(), gate_weights.data()));
    }
    const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, s.kv_type, kEntries};
    EXPECT_OK(ctx, fth_kv_bytes(ctx, &kv, &bytes));
    pool.resize(size_t(bytes));
    std::vector<fth_row> every(kEntries, test::row());
    for (int32_t i = 0; i < kEntries; i++) every[size_t(i)].entry = i;
    for (int32_t layer = 0; layer < s.layers; layer++) {
      const std::vector<float> k = numbers(random, int64_t(kEntries) * s.kv_heads * s.head_dim, 1, 0);
      EXPECT_OK(ctx, fth_kv_write(ctx, &kv, layer, kEntries, every.data(), k.data(), k.data(), pool.data()));
    }
    for (size_t i = 0; i < lists.size(); i++) lists[i] = int32_t(i / kCapacity * 704 + i % kCapacity);
  }

  static std::vector<float> numbers(test::Random& random, int64_t n, float spread, float base) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = base + spread * random.uniform();
    return v;
  }
  int64_t in(int32_t part) const {
    return part == FTH_O || part == FTH_CROSS_O ? shape.heads * shape.head_dim
           : part == FTH_DOWN                   ? shape.intermediate_size
                                                : shape.hidden_size;
  }
  int64_t out(int32_t part) const {
    return part == FTH_Q || part == FTH_CROSS_Q ? shape.heads * shape.head_dim
           : part == FTH_K || part == FTH_V     ? shape.kv_heads * shape.head_dim
           : part == FTH_GATE || part == FTH_UP ? shape.intermediate_size
                                                : shape.hidden_size;
  }
  // How many tensors there are of a part and kind.
  int32_t sets(int32_t part, int32_t kind) const {
    if (part >= FTH_ATTENTION_PRE_NORM) {
      const bool used = (shape.norm_placement >> (part - FTH_ATTENTION_PRE_NORM) % 3 & 1) &&
                        (shape.cross || part < FTH_CROSS_PRE_NORM || part > FTH_CROSS_POST_NORM);
      const bool has = kind == FTH_WEIGHT || (kind == FTH_BIAS && shape.norm == FTH_LAYER_NORM);
      return used && has ? shape.norm_per_depth ? kDepths : 1 : 0;
    }
    if (((part == FTH_CROSS_Q || part == FTH_CROSS_O) && !shape.cross) || (part == FTH_GATE && !shape.glu)) return 0;
    return kind == FTH_WEIGHT ? 1 : kind == FTH_BIAS ? shape.bias : shape.lora_rank[part] > 0 ? kDepths : 0;
  }
  void pack(test::Context& ctx, test::Random& random, int32_t layer, int32_t depth, int32_t part, int32_t kind) {
    const bool norm = part >= FTH_ATTENTION_PRE_NORM && part <= FTH_MLP_POST_NORM;
    const int64_t rank = part <= FTH_DOWN ? shape.lora_rank[part] : 0;
    const int64_t n = part == FTH_ROPE_FREQUENCY  ? shape.rotary_dim / 2
                      : part == FTH_RELATIVE_BIAS ? shape.heads * shape.relative_width
                      : norm                      ? shape.hidden_size
                      : kind == FTH_WEIGHT        ? in(part) * out(part)
                      : kind == FTH_BIAS          ? out(part)
                      : kind == FTH_LORA_A        ? rank * in(part)
                                                  : out(part) * rank;
    const std::vector<float> source = numbers(random, n, 0.3f, norm && kind == FTH_WEIGHT ? 1 : 0);
    EXPECT_OK(ctx, fth_block_pack(ctx, &shape, layer, depth, part, kind, 1, FTH_F32, source.data(), weights.data()));
  }
  std::vector<float> states(int64_t count) const {
    test::Random random(9);
    return numbers(random, count * shape.hidden_size, 1, 0);
  }
};

struct Result {
  std::vector<float> hidden;
  std::vector<char> pool;
  std::vector<int32_t> passes;
  bool operator==(const Result& other) const {
    return hidden == other.hidden && pool == other.pool && passes == other.passes;
  }
};

// body(route's result) by one launch and by many.
template <class Body>
void compare(test::Context& ctx, const char* what, int64_t count, Body body) {
  fth::Device* device = static_cast<fth_context*>(ctx)->device;
  if (!device->records()) return;  // it has no such launch
  const Result once = body();
  device->use_records(false);
  const Result launched = body();
  device->use_records(true);
  bool numbers = true;
  for (float x : launched.hidden) numbers = numbers && x == x;
  EXPECT(numbers, "%s, %lld rows", what, (long long)count);
  EXPECT(once == launched, "%s, %lld rows", what, (long long)count);
}

// Rows of six lists, one of them of several pieces, at all depths; some write nothing, some see a part.
void compare_steps(test::Context& ctx, const char* what, const Model& m) {
  for (const int64_t count : {1, 5, 16}) {
    std::vector<fth_row> rows(size_t(count), test::row()), cross(rows);
    std::vector<int32_t> lists = m.lists;
    for (int64_t i = 0; i < count; i++) {
      fth_row& row = rows[size_t(i)];
      const int64_t list = i * 3 / 8 % 6;
      row.depth = int32_t(i % kDepths);
      row.list = list * kCapacity;
      row.visible = list == 0 ? 600 + int32_t(i) : 20 + int32_t(i);
      row.start = i % 4 == 3 ? 7 : 0;
      row.position = row.visible - 1;
      row.entry = i % 5 == 4 ? -1 : m.lists[size_t(row.list + row.visible - 1)];
      cross[size_t(i)].list = (5 - list) * kCapacity;
      cross[size_t(i)].visible = 3 + int32_t(i);
    }
    compare(ctx, what, count, [&] {
      Result r{m.states(count), m.pool, {}};
      EXPECT_OK(ctx, fth_block(ctx, &m.shape, count, rows.data(), m.shape.cross ? cross.data() : nullptr,
                               m.weights.data(), lists.data(), int64_t(lists.size()), nullptr, kEntries, r.pool.data(),
                               r.hidden.data()));
      return r;
    });
  }
}

void compare_recursions(test::Context& ctx, const char* what, const Model& m, bool routed) {
  bool seen[kDepths] = {};  // whether a row took one pass more than this
  for (const int64_t count : {1, 12, 16})
    for (const int32_t update : {FTH_UPDATE_REPLACE, FTH_UPDATE_ADD_GATED}) {
      if (update == FTH_UPDATE_ADD_GATED && !routed) continue;
      const fth_recursion_shape shape{kDepths, update, 1, 0};
      std::vector<fth_row> rows(size_t(kDepths * count), test::row());
      for (int64_t i = 0; i < kDepths * count; i++) {
        const int64_t depth = i / count, sequence = i % count / 8;
        fth_row& row = rows[size_t(i)];
        row.list = (depth * 2 + sequence) * kCapacity;
        row.visible = depth == 1 ? 520 : 9;
        row.position = row.visible + int32_t(i % 8);
        row.entry = m.lists[size_t(row.list + row.visible + i % count % 8)];
      }
      compare(ctx, what, count, [&] {
        Result r{m.states(count), m.pool, std::vector<int32_t>(size_t(count), -1)};
        EXPECT_OK(ctx, fth_recursion(ctx, &shape, &m.shape, routed ? &m.gate : nullptr, count, rows.data(),
                                     m.weights.data(), routed ? m.gate_weights.data() : nullptr, m.lists.data(),
                                     int64_t(m.lists.size()), nullptr, kEntries, r.pool.data(), r.hidden.data(),
                                     r.passes.data()));
        for (int32_t passes : r.passes) seen[passes - 1] = true;
        return r;
      });
    }
  EXPECT(seen[kDepths - 1] && seen[0] == routed, "%s: rows stop at different depths", what);
}

}  // namespace

TEST(narrow_layers) {
  if (!test::kCuda) return;
  test::Context ctx;
  fth_block_shape s = narrow();
  compare_steps(ctx, "bf16", Model(ctx, s));
  std::fill(s.lora_rank, s.lora_rank + 9, 3);
  s.lora_rank[FTH_CROSS_Q] = s.lora_rank[FTH_CROSS_O] = 0;
  const Model lora(ctx, s);
  compare_steps(ctx, "LoRA", lora);
  compare_recursions(ctx, "LoRA", lora, true);
  s.norm = FTH_LAYER_NORM;
  s.norm_placement = FTH_NORM_BRANCH | FTH_NORM_POST;
  s.norm_per_depth = s.glu = 0;
  s.lora_rank[FTH_GATE] = 0;
  s.bias = s.cross = 1;
  s.rope_style = FTH_ROPE_NONE;
  s.relative_width = 64;
  s.kv_type = FTH_I8;
  compare_steps(ctx, "cross-attention", Model(ctx, s));
}

// Chains over k are shared by blocks, and heads are of the width that they may have at most.
TEST(wide_layers) {
  if (!test::kCuda) return;
  test::Context ctx;
  fth_block_shape s = narrow();
  s.layers = 1;
  s.hidden_size = 520;
  s.intermediate_size = 560;
  s.head_dim = 64;
  s.lora_rank[FTH_O] = s.lora_rank[FTH_UP] = 5;
  compare_steps(ctx, "bf16, wide", Model(ctx, s));
  s.kv_type = FTH_I8;
  compare_recursions(ctx, "bf16, wide", Model(ctx, s), true);
  s.weight_type = FTH_F8_E4M3;
  compare_steps(ctx, "f8, wide", Model(ctx, s));
}

TEST(quantised_weights) {
  if (!test::kCuda) return;
  test::Context ctx;
  for (const int32_t type : {FTH_I8, FTH_Q8_0, FTH_Q4_0, FTH_F8_E4M3}) {
    fth_block_shape s = narrow();
    s.weight_type = type;
    s.kv_type = type == FTH_Q8_0 ? FTH_I8 : FTH_BF16;
    s.head_dim = 24;
    s.lora_rank[FTH_Q] = s.lora_rank[FTH_DOWN] = type == FTH_I8 ? 0 : 2;
    const Model m(ctx, s);
    compare_steps(ctx, "quantised", m);
    compare_recursions(ctx, "quantised", m, type != FTH_I8);
  }
}

#ifdef FATHOM_TEST_CUDA
// Of the CUDA runtime: 0 is success.
extern "C" {
int cudaStreamBeginCapture(void* stream, int mode);
int cudaStreamEndCapture(void* stream, void** graph);
int cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags);
int cudaGraphLaunch(void* executable, void* stream);
int cudaGraphExecDestroy(void* executable);
int cudaGraphDestroy(void* graph);
}

namespace {

// An array that the library leaves where it is while a stream is being captured.
template <class T>
struct Pinned {
  T* data = nullptr;

  explicit Pinned(const std::vector<T>& from) {
    void* p = nullptr;
    EXPECT(fth_memory_map(FTH_MEMORY_PINNED, 0, int64_t(from.size() * sizeof(T)), &p) == FTH_OK, "pinned memory");
    data = static_cast<T*>(p);
    std::copy(from.begin(), from.end(), data);
    bytes = int64_t(from.size() * sizeof(T));
  }
  ~Pinned() { fth_memory_unmap(FTH_MEMORY_PINNED, 0, data, bytes); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  int64_t bytes = 0;
};

// What call() enqueues, captured once it has run, and launched on `again`: the same as the call with those rows.
template <class Call, class Rows>
void compare_graph(test::Context& ctx, const char* what, const Result& start, Result& r, Rows& rows,
                   const std::vector<fth_row>& again, Call call) {
  void* stream = static_cast<fth_context*>(ctx)->device->stream();
  EXPECT_OK(ctx, call());
  EXPECT(cudaStreamBeginCapture(stream, 0) == 0, "%s", what);
  const fth_status status = call();
  void *graph = nullptr, *executable = nullptr;
  EXPECT(cudaStreamEndCapture(stream, &graph) == 0, "%s", what);
  EXPECT(status == FTH_OK, "%s: %s", what, ctx.message());
  EXPECT(cudaGraphInstantiateWithFlags(&executable, graph, 0) == 0, "%s", what);
  std::copy(again.begin(), again.end(), rows.data);
  const auto from_start = [&](auto work) {
    std::copy(start.hidden.begin(), start.hidden.end(), r.hidden.begin());
    std::copy(start.pool.begin(), start.pool.end(), r.pool.begin());
    work();
    EXPECT_OK(ctx, fth_synchronize(ctx));
    return r;
  };
  const Result called = from_start([&] { EXPECT_OK(ctx, call()); });
  const Result launched = from_start([&] { EXPECT(cudaGraphLaunch(executable, stream) == 0, "%s", what); });
  EXPECT(called == launched, "%s", what);
  EXPECT(!(launched.hidden == start.hidden), "%s", what);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

}  // namespace

TEST(graphs) {
  test::Context ctx;
  fth_block_shape s = narrow();
  s.lora_rank[FTH_Q] = 3;
  const Model m(ctx, s);
  Pinned<int32_t> lists(m.lists);
  const int64_t items = int64_t(m.lists.size());
  for (const int64_t count : {5, 20}) {  // one launch, and many
    std::vector<fth_row> now(size_t(count), test::row()), then;
    for (int64_t i = 0; i < count; i++) {
      fth_row& row = now[size_t(i)];
      row.list = i % 6 * kCapacity;
      row.visible = 20 + int32_t(i);
      row.position = row.visible - 1;
      row.entry = m.lists[size_t(row.list + row.visible - 1)];
    }
    then = now;
    for (int64_t i = 0; i < count; i++) {
      then[size_t(i)].depth = int32_t(i % kDepths);
      then[size_t(i)].visible -= int32_t(i % 3);
      if (i % 4 == 1) then[size_t(i)].entry = -1;
    }
    Pinned<fth_row> rows(now);
    const Result start{m.states(count), m.pool, {}};
    Result r = start;
    compare_graph(ctx, "a step", start, r, rows, then, [&] {
      return fth_block(ctx, &m.shape, count, rows.data, nullptr, m.weights.data(), lists.data, items, nullptr, kEntries,
                       r.pool.data(), r.hidden.data());
    });
  }
  for (const int64_t count : {4, 18}) {
    std::vector<fth_row> now(size_t(kDepths * count), test::row()), then;
    for (int64_t i = 0; i < kDepths * count; i++) {
      fth_row& row = now[size_t(i)];
      row.list = i / count * kCapacity;
      row.visible = 9;
      row.position = 9 + int32_t(i % count);
      row.entry = m.lists[size_t(row.list + 9 + i % count)];
    }
    then = now;
    for (fth_row& row : then) row.position += 100;
    Pinned<fth_row> rows(now);
    const Result start{m.states(count), m.pool, std::vector<int32_t>(size_t(count), -1)};
    Result r = start;
    const fth_recursion_shape shape{kDepths, FTH_UPDATE_ADD_GATED, 1, 0};
    compare_graph(ctx, "a recursion", start, r, rows, then, [&] {
      return fth_recursion(ctx, &shape, &m.shape, &m.gate, count, rows.data, m.weights.data(), m.gate_weights.data(),
                           lists.data, items, nullptr, kEntries, r.pool.data(), r.hidden.data(), r.passes.data());
    });
  }
}
#endif
