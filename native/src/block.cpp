#include "block.h"

#include <math.h>
#include <string.h>

#include "attention.h"
#include "kv.h"
#include "norm.h"
#include "rope.h"
#include "tasks.h"

namespace fth {

BlockPlan::BlockPlan(const fth_context* ctx, const fth_block_shape& s) {
  const int64_t d = s.hidden_size, f = s.intermediate_size, q_size = int64_t(s.heads) * s.head_dim,
                kv_size = int64_t(s.kv_heads) * s.head_dim;
  int64_t at = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = at;
    at += round_up(bytes, 64);
    return begin;
  };
  const auto linear = [&](int64_t in, int64_t out, bool glu, int64_t rank) {
    const WeightShape weight{in, out, s.weight_type, glu, FTH_ON_DEVICE(ctx)};
    LinearPart part{weight, {weight, rank, s.depths}, -1, -1, -1};
    part.weight = take(part.shape.bytes());
    if (s.bias) part.bias = take(part.shape.rows() * 4);
    if (rank > 0) part.lora = take(part.lora_shape.bytes());
    return part;
  };
  q = linear(d, q_size, false, s.lora_rank[FTH_Q]);
  k = linear(d, kv_size, false, s.lora_rank[FTH_K]);
  v = linear(d, kv_size, false, s.lora_rank[FTH_V]);
  o = linear(q_size, d, false, s.lora_rank[FTH_O]);
  cross_q = cross_o = {{}, {}, -1, -1, -1};
  if (s.cross) {
    cross_q = linear(d, q_size, false, s.lora_rank[FTH_CROSS_Q]);
    cross_o = linear(q_size, d, false, s.lora_rank[FTH_CROSS_O]);
  }
  mlp_in = linear(d, f, s.glu != 0, (s.glu ? s.lora_rank[FTH_GATE] : 0) + s.lora_rank[FTH_UP]);
  down = linear(f, d, false, s.lora_rank[FTH_DOWN]);
  for (int i = 0; i < 9; i++) {
    const bool used = uses_norm(s, FTH_ATTENTION_PRE_NORM + i);
    gain[i] = used ? take(norm_sets(s) * d * 4) : -1;
    norm_bias[i] = used && s.norm == FTH_LAYER_NORM ? take(norm_sets(s) * d * 4) : -1;
  }
  layer_bytes = at;
  at = 0;
  frequency = take(s.rotary_dim / 2 * 4);
  relative = take(int64_t(s.heads) * s.relative_width * 4);
  first_layer = at;
  bytes = first_layer + s.layers * layer_bytes;
}

namespace {

constexpr int kLinears = FTH_DOWN + 1;

bool has_lora(const fth_block_shape& s) {
  for (int32_t rank : s.lora_rank)
    if (rank > 0) return true;
  return false;
}

bool has_linear(const fth_block_shape& s, int32_t part) {
  return part == FTH_GATE ? s.glu : s.cross || (part != FTH_CROSS_Q && part != FTH_CROSS_O);
}

void check_shape(Check& check, const fth_block_shape* s) {
  if (!check.array("shape", s)) return;
  check.range("shape.layers", s->layers, 1, 1024);
  check.range("shape.depths", s->depths, 1, 1024);
  check.range("shape.hidden_size", s->hidden_size, 1, 1 << 20);
  check.range("shape.intermediate_size", s->intermediate_size, 1, 1 << 20);
  check.range("shape.kv_heads", s->kv_heads, 1, 1024);
  check.range("shape.heads", s->heads, 1, 1024);
  if (!check.ok()) return;
  check.that(s->heads % s->kv_heads == 0, "shape.heads must be a multiple of kv_heads (%d), got %d", s->kv_heads,
             s->heads);
  check.that(s->head_dim >= 16 && s->head_dim <= 256 && s->head_dim % 8 == 0,
             "shape.head_dim must be a multiple of 8 in 16..256, got %d", s->head_dim);
  check_weight_type(check, s->weight_type);
  check_kv_type(check, "shape", ".kv_type", s->kv_type);
  check.range("shape.norm", s->norm, FTH_RMS_NORM, FTH_LAYER_NORM);
  check.range("shape.norm_placement", s->norm_placement, 0, FTH_NORM_PRE | FTH_NORM_BRANCH | FTH_NORM_POST);
  check.range("shape.norm_per_depth", s->norm_per_depth, 0, 1);
  check.range("shape.activation", s->activation, FTH_IDENTITY, FTH_SILU);
  check.range("shape.glu", s->glu, 0, 1);
  check.range("shape.bias", s->bias, 0, 1);
  check.range("shape.rope_style", s->rope_style, FTH_ROPE_NONE, FTH_ROPE_INTERLEAVED);
  check.that(s->rotary_dim >= 0 && s->rotary_dim <= s->head_dim && s->rotary_dim % 2 == 0,
             "shape.rotary_dim must be even and in 0..head_dim (%d), got %d", s->head_dim, s->rotary_dim);
  check.range("shape.relative_width", s->relative_width, 0, fth::kMostFeatures);
  check.range("shape.cross", s->cross, 0, 1);
  for (int i = 0; i < kLinears; i++)
    check.that(s->lora_rank[i] >= 0 && s->lora_rank[i] <= 1 << 16, "shape.lora_rank[%d] must be in 0..65536, got %d", i,
               s->lora_rank[i]);
  for (int i = 0; i < kLinears; i++)
    check.that(has_linear(*s, i) || s->lora_rank[i] == 0, "shape.lora_rank[%d] must be 0 without %s, got %d", i,
               i == FTH_GATE ? "a gate (glu = 0)" : "cross-attention (cross = 0)", s->lora_rank[i]);
  check.that(s->norm_eps >= 0 && isfinite(s->norm_eps), "shape.norm_eps must be a finite number >= 0, got %g",
             double(s->norm_eps));
  check.finite("shape.attention_scale", s->attention_scale);
}

// What a step knows of its rows, as offsets into the host's scratch.
struct WordsAt {
  size_t writers, order, begin, writers_order, writers_begin;

  WordsAt(Layout& layout, const fth_block_shape& s, int64_t count)
      : writers(layout.add<int32_t>(count)),
        order(layout.add<int32_t>(count)),
        begin(layout.add<int32_t>(s.depths + 1)),
        writers_order(layout.add<int32_t>(count)),
        writers_begin(layout.add<int32_t>(s.depths + 1)) {}
};

// Temporaries of one step, as offsets into the kernels' scratch.
struct StepScratch {
  InputScratch input;  // of every product in turn
  size_t q, k, v, attended, mlp, branch, rope, attention, cross_attention;
  LoraScratch lora[8];

  StepScratch(Layout& layout, const fth_context* ctx, const fth_block_shape& s, const BlockPlan& plan, int64_t count)
      : input(layout, widest(plan), s.weight_type, count, true, has_lora(s)),
        q(layout.add<float>(count * plan.q.shape.out)),
        k(layout.add<float>(count * plan.k.shape.out)),
        v(layout.add<float>(count * plan.v.shape.out)),
        attended(layout.add<char>(count * stored_bytes(s, plan.o.shape.in))),
        mlp(layout.add<char>(count * stored_bytes(s, plan.down.shape.in))),
        branch(layout.add<float>(s.norm_placement & FTH_NORM_BRANCH ? count * s.hidden_size : 0)),
        rope(layout.add<float>(rope_table_floats(s.rotary_dim, count))),
        attention(attention_scratch(layout, ctx, s, count)),
        cross_attention(s.cross && FTH_ON_DEVICE(ctx) ? attention_scratch(layout, ctx, s, count) : attention),
        lora{lora_of(layout, plan.q, count),       lora_of(layout, plan.k, count),
             lora_of(layout, plan.v, count),       lora_of(layout, plan.o, count),
             lora_of(layout, plan.cross_q, count), lora_of(layout, plan.cross_o, count),
             lora_of(layout, plan.mlp_in, count),  lora_of(layout, plan.down, count)} {}

  // Bytes of a row that attention or the MLP's first half leaves for the next product: in bf16 if that reads it so.
  static int64_t stored_bytes(const fth_block_shape& s, int64_t width) {
    return x_bytes(width, reads_bf16(s.weight_type) ? FTH_BF16 : FTH_F32);
  }
  // Only codes are made of what is wider than the hidden state.
  static int64_t widest(const BlockPlan& plan) {
    int64_t most = plan.q.shape.in;
    if (!quantised(plan.q.shape.type)) return most;
    if (plan.o.shape.in > most) most = plan.o.shape.in;
    return plan.down.shape.in > most ? plan.down.shape.in : most;
  }
  // A device keeps its plan of each attention there for all layers.
  static size_t attention_scratch(Layout& layout, const fth_context* ctx, const fth_block_shape& s, int64_t count) {
    return layout.add<char>(int64_t(attention_scratch_bytes(ctx, s.heads, s.kv_heads, s.head_dim, count)));
  }
  static LoraScratch lora_of(Layout& layout, const LinearPart& part, int64_t count) {
    return LoraScratch(layout, part.lora_shape, part.lora < 0 ? 0 : count);
  }
};

// One pass whose arguments are checked. Activations that a product reads in bf16 are stored in bf16 by whoever makes
// them; codes for quantised weights are made from fp32.
class Step {
 public:
  Step(fth_context* ctx, const fth_block_shape& shape, const BlockPlan& plan, const StepRows& rows, const char* weights,
       const kv::Pool& pool, const int32_t* entry_position, float* hidden, const StepScratch& at, char* scratch)
      : ctx_(ctx), s_(shape), plan_(plan), step_(rows), count_(rows.count), weights_(weights), pool_(pool),
        entry_position_(entry_position), hidden_(hidden), at_(at), scratch_(scratch),
        bf16_(reads_bf16(shape.weight_type)) {
    if (shape.rope_style != FTH_ROPE_NONE && shape.rotary_dim > 0)
      rope_table(ctx, count_, step_.rows, reinterpret_cast<const float*>(weights + plan.frequency), shape.rotary_dim,
                 temporary<float>(at.rope));
  }

  void run() {
    attention::Args attention = attention_args(step_.rows), cross = attention_args(step_.cross_rows);
    if (s_.relative_width > 0) {
      attention.bias_kind = FTH_BIAS_RELATIVE;
      attention.bias_width = s_.relative_width;
      attention.bias_center = s_.relative_center;
      attention.bias = reinterpret_cast<const float*>(weights_ + plan_.relative);
      attention.entry_position = entry_position_;
    }
    plan_attention(ctx_, attention, count_, temporary<char>(at_.attention));
    if (s_.cross) plan_attention(ctx_, cross, count_, temporary<char>(at_.cross_attention));
    for (int32_t layer = 0; layer < s_.layers; layer++) {
      layer_ = weights_ + plan_.first_layer + layer * plan_.layer_bytes;
      norm_in(FTH_ATTENTION_PRE_NORM);
      project(layer);
      attention.layer = layer;
      run_attention(ctx_, attention, count_, temporary<char>(at_.attention));
      norm_out(FTH_ATTENTION_PRE_NORM, plan_.o, 3, temporary<char>(at_.attended));
      if (s_.cross) {
        norm_in(FTH_CROSS_PRE_NORM);
        LinearCall q = projection(plan_.cross_q, 4, at_.q);
        run_linears(ctx_, &q, 1);
        cross.layer = layer;
        run_attention(ctx_, cross, count_, temporary<char>(at_.cross_attention));
        norm_out(FTH_CROSS_PRE_NORM, plan_.cross_o, 5, temporary<char>(at_.attended));
      }
      norm_in(FTH_MLP_PRE_NORM);
      LinearCall in = call(plan_.mlp_in, 6);
      in.product.activation = s_.activation;
      emit(in.product, at_.mlp, s_.intermediate_size);
      run_linears(ctx_, &in, 1);
      norm_out(FTH_MLP_PRE_NORM, plan_.down, 7, temporary<char>(at_.mlp));
    }
  }

 private:
  template <class T>
  T* temporary(size_t offset) const { return reinterpret_cast<T*>(scratch_ + offset); }
  const float* vector(int64_t offset) const {
    return offset < 0 ? nullptr : reinterpret_cast<const float*>(layer_ + offset);
  }

  attention::Args attention_args(const fth_row* rows) const {
    attention::Args a{};
    a.rows = rows;
    a.heads = s_.heads;
    a.kv_heads = s_.kv_heads;
    a.head_dim = s_.head_dim;
    a.scale = s_.attention_scale;
    a.q = temporary<float>(at_.q);
    a.q_stride = a.out_stride = plan_.q.shape.out;
    a.out = temporary<char>(at_.attended);
    a.out_bf16 = bf16_;
    a.kv_type = s_.kv_type;
    a.entries = step_.entries;
    a.pool = pool_;
    return a;
  }

  norm::Args norm_args(int part) const {
    norm::Args a{};
    a.rows = s_.norm_per_depth ? step_.rows : nullptr;
    a.gain = vector(plan_.gain[part - FTH_ATTENTION_PRE_NORM]);
    a.bias = vector(plan_.norm_bias[part - FTH_ATTENTION_PRE_NORM]);
    a.width = s_.hidden_size;
    a.eps = s_.norm_eps;
    a.layer = s_.norm == FTH_LAYER_NORM;
    return a;
  }

  // Sets input_, what the next products read: norm(hidden), or hidden itself.
  void norm_in(int pre) {
    norm::Args args = norm_args(pre);
    args.x = hidden_;
    input_ = product_input(ctx_, args, s_.norm_placement & FTH_NORM_PRE, s_.weight_type, count_, at_.input, scratch_);
  }

  // hidden += W in, with the norms that stand behind it.
  void norm_out(int pre, const LinearPart& part, int index, const char* in) {
    const bool branch = s_.norm_placement & FTH_NORM_BRANCH;
    input_ = bf16_ ? Input{in, in}
                   : input_of(ctx_, reinterpret_cast<const float*>(in), part.shape.in, s_.weight_type, count_,
                              at_.input, scratch_);
    LinearCall out = call(part, index);
    out.product.y = branch ? temporary<float>(at_.branch) : hidden_;
    out.product.y_stride = s_.hidden_size;
    out.product.residual = branch ? nullptr : hidden_;
    out.product.residual_stride = s_.hidden_size;
    run_linears(ctx_, &out, 1);
    if (branch) {
      norm::Args args = norm_args(pre + 1);
      args.x = temporary<float>(at_.branch);
      args.residual = args.y = hidden_;
      run_norm(ctx_, args, count_);
    }
    if (s_.norm_placement & FTH_NORM_POST) {
      norm::Args args = norm_args(pre + 2);
      args.x = args.y = hidden_;
      run_norm(ctx_, args, count_);
    }
  }

  // Product number `index` of input_ on all rows, its output still open.
  LinearCall call(const LinearPart& part, int index) const {
    LinearCall c{};
    c.product.type = s_.weight_type;
    c.product.weight = layer_ + part.weight;
    c.product.k = part.shape.in;
    c.product.n = part.shape.out;
    c.product.glu = part.shape.glu;
    c.product.x = input_.x;
    c.product.x_bytes = x_bytes(part.shape.in, s_.weight_type);
    c.lora_x = input_.lora_x;
    c.product.count = count_;
    c.product.live = step_.live;
    c.product.bias = vector(part.bias);
    if (part.lora >= 0) {
      c.lora = layer_ + part.lora;
      c.lora_shape = part.lora_shape;
      c.lora_inner = temporary<char>(at_.lora[index].inner);
      c.lora_addend = temporary<float>(at_.lora[index].addend);
      c.groups = &step_.all;
    }
    return c;
  }
  // Sends a product to a buffer that the next product reads.
  void emit(linear::Args& product, size_t to, int64_t width) const {
    if (bf16_) {
      product.y_bf16 = temporary<uint16_t>(to);
      product.y_bf16_stride = x_bytes(width, FTH_BF16) / 2;
    } else {
      product.y = temporary<float>(to);
      product.y_stride = width;
    }
  }

  // Product number `index` of input_, fp32, at `to`.
  LinearCall projection(const LinearPart& part, int index, size_t to) const {
    LinearCall c = call(part, index);
    c.product.y = temporary<float>(to);
    c.product.y_stride = c.product.n;
    return c;
  }

  // q for all rows, k and v for those that write an entry; rope; store.
  void project(int32_t layer) {
    LinearCall calls[3] = {projection(plan_.q, 0, at_.q), projection(plan_.k, 1, at_.k), projection(plan_.v, 2, at_.v)};
    for (int i = 1; i < 3; i++) {
      if (step_.writer_count < count_) {
        calls[i].product.rows = step_.writers;
        calls[i].product.count = step_.writer_count;
        calls[i].groups = &step_.writing;
      }
    }
    run_linears(ctx_, calls, step_.writer_count > 0 ? 3 : 1);

    if (s_.rope_style != FTH_ROPE_NONE && s_.rotary_dim > 0) {
      rope::Args rope{temporary<float>(at_.rope), temporary<float>(at_.q), plan_.q.shape.out, s_.heads, s_.head_dim,
                      s_.rotary_dim / 2, s_.rope_style == FTH_ROPE_INTERLEAVED};
      run_rope(ctx_, count_, rope);
      rope.x = temporary<float>(at_.k);
      rope.stride = plan_.k.shape.out;
      rope.heads = s_.kv_heads;
      if (step_.writer_count > 0) run_rope(ctx_, count_, rope);
    }
    if (step_.writer_count > 0)
      run_kv_write(ctx_, {pool_, layer, &step_.rows->entry, kRowWords}, count_, temporary<float>(at_.k),
                   temporary<float>(at_.v), plan_.k.shape.out);
  }

  fth_context* ctx_;
  const fth_block_shape& s_;
  const BlockPlan& plan_;
  const StepRows& step_;
  int64_t count_;
  const char* weights_;
  kv::Pool pool_;
  const int32_t* entry_position_;
  float* hidden_;
  const StepScratch& at_;
  char* scratch_;
  bool bf16_;
  const char* layer_ = nullptr;   // weights of the layer that runs
  Input input_{};
};

}  // namespace

bool check_block(Check& check, const fth_block_shape* shape) {
  check_shape(check, shape);
  return check.ok();
}

bool check_pool(Check& check, const fth_block_shape& s, int64_t pool_entries, fth_kv_shape* kv) {
  if (!check.that(pool_entries >= 0 && pool_entries <= INT32_MAX && pool_entries % 64 == 0,
                  "pool_entries must be a multiple of 64 in 0..%d, got %lld", INT32_MAX, (long long)pool_entries))
    return false;
  *kv = {s.layers, s.kv_heads, s.head_dim, s.kv_type, pool_entries};
  return check_kv(check, "pool", *kv);
}

size_t step_words(const fth_block_shape& s, int64_t count) {
  Layout layout;
  WordsAt(layout, s, count);
  return layout.bytes();
}

size_t step_scratch(const fth_context* ctx, const fth_block_shape& s, const BlockPlan& plan, int64_t count) {
  Layout layout;
  StepScratch(layout, ctx, s, plan, count);
  return layout.bytes();
}

fth_status step_rows(fth_context* ctx, const fth_block_shape& s, int64_t count, const fth_row* rows,
                     const fth_row* cross_rows, const int32_t* entries, int64_t entry_count, char* host,
                     StepRows* out) {
  Layout layout;
  const WordsAt at(layout, s, count);
  const auto words = [&](size_t offset) { return reinterpret_cast<int32_t*>(host + offset); };
  int32_t* writers = words(at.writers);
  int64_t writer_count = 0;
  for (int64_t i = 0; i < count; i++)
    if (rows[i].entry >= 0) writers[writer_count++] = int32_t(i);
  *out = {count, rows, cross_rows, entries, writers, writer_count, {}, {}, nullptr};
  if (FTH_ON_DEVICE(ctx)) {
    // A captured step takes its rows anew at every replay: who writes is not known, so K and V are computed of all.
    if (writer_count > 0 && gpu::capturing(ctx->device->stream())) {
      out->writers = nullptr;
      out->writer_count = count;
    }
    const fth_status status =
        stage(ctx, {staged("rows", out->rows, count), staged("cross_rows", out->cross_rows, count),
                    staged("entries", out->entries, entry_count), staged("writers", out->writers, writer_count)});
    out->all.rows = out->writing.rows = out->rows;
    return status;
  }
  if (has_lora(s)) {
    out->all = group_by_depth(rows, nullptr, count, s.depths, words(at.order), words(at.begin));
    out->writing =
        group_by_depth(rows, writers, writer_count, s.depths, words(at.writers_order), words(at.writers_begin));
  }
  return FTH_OK;
}

void run_step(fth_context* ctx, const fth_block_shape& shape, const BlockPlan& plan, const StepRows& rows,
              const void* weights, const kv::Pool& pool, const int32_t* entry_position, float* hidden, char* scratch) {
  Layout layout;
  const StepScratch at(layout, ctx, shape, plan, rows.count);
  Step(ctx, shape, plan, rows, static_cast<const char*>(weights), pool, entry_position, hidden, at, scratch).run();
}

namespace {

// W's rows that a part fills, and where its weight lies among those of its product.
struct Target {
  const LinearPart* part;
  int64_t first, rows;          // of W
  int64_t rank_first, rank;     // of the product's LoRA
};

Target target_of(const BlockPlan& plan, const fth_block_shape& s, int32_t part) {
  const int64_t f = s.intermediate_size, gate = s.glu ? s.lora_rank[FTH_GATE] : 0;
  switch (part) {
    case FTH_Q: return {&plan.q, 0, plan.q.shape.out, 0, s.lora_rank[FTH_Q]};
    case FTH_K: return {&plan.k, 0, plan.k.shape.out, 0, s.lora_rank[FTH_K]};
    case FTH_V: return {&plan.v, 0, plan.v.shape.out, 0, s.lora_rank[FTH_V]};
    case FTH_O: return {&plan.o, 0, plan.o.shape.out, 0, s.lora_rank[FTH_O]};
    case FTH_CROSS_Q: return {&plan.cross_q, 0, plan.cross_q.shape.out, 0, s.lora_rank[FTH_CROSS_Q]};
    case FTH_CROSS_O: return {&plan.cross_o, 0, plan.cross_o.shape.out, 0, s.lora_rank[FTH_CROSS_O]};
    case FTH_GATE: return {&plan.mlp_in, 0, f, 0, gate};
    case FTH_UP: return {&plan.mlp_in, s.glu ? f : 0, f, gate, s.lora_rank[FTH_UP]};
    default: return {&plan.down, 0, plan.down.shape.out, 0, s.lora_rank[FTH_DOWN]};
  }
}

// B of gate or up: its columns of the product's wider B, zero elsewhere. False without memory.
bool pack_lora_b(fth_context* ctx, const Target& t, float scale, int32_t type, const void* source, void* packed) {
  const LoraShape& lora = t.part->lora_shape;
  if (t.rank == lora.rank) return pack_rows(ctx, lora.b(), t.first, t.rows, scale, type, source, packed);
  const int64_t narrow_bytes = t.rows * source_bytes(type, t.rank);
  Layout layout;
  const size_t wide_at = layout.add<float>(t.rows * lora.rank), narrow_at = layout.add<char>(narrow_bytes);
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr) return false;
  float* wide = reinterpret_cast<float*>(scratch + wide_at);
  memset(wide, 0, size_t(t.rows * lora.rank) * 4);
  const char* narrow = static_cast<const char*>(host_source(ctx, source, narrow_bytes, scratch + narrow_at));
  for (int64_t r = 0; r < t.rows; r++, narrow += t.rank * element_bytes(type))
    convert(type, narrow, t.rank, 1, wide + r * lora.rank + t.rank_first);
  return pack_rows(ctx, lora.b(), t.first, t.rows, scale, FTH_F32, wide, packed);
}

}  // namespace
}  // namespace fth

extern "C" {

fth_status fth_block_bytes(fth_context* ctx, const fth_block_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  fth::check_shape(check, shape);
  check.array("bytes", bytes);
  if (!check.ok()) return check.status();
  *bytes = fth::BlockPlan(ctx, *shape).bytes;
  return FTH_OK;
}

fth_status fth_block_pack(fth_context* ctx, const fth_block_shape* shape, int32_t layer, int32_t depth, int32_t part,
                          int32_t kind, float scale, int32_t source_type, const void* source, void* weights) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  fth::check_shape(check, shape);
  if (!check.ok()) return check.status();
  const bool norm = part >= FTH_ATTENTION_PRE_NORM && part <= FTH_MLP_POST_NORM;
  const bool linear = part >= FTH_Q && part <= FTH_DOWN;
  check.range("part", part, FTH_Q, FTH_RELATIVE_BIAS);
  check.range("kind", kind, FTH_WEIGHT, FTH_LORA_B);
  check.range("layer", layer, 0, shape->layers - 1);
  const bool weight = linear && kind == FTH_WEIGHT;
  if (!weight) check.range("source_type", source_type, FTH_F32, FTH_F16);
  check.finite("scale", scale);
  check.pointer("source", source, fth::source_alignment(source_type));
  check.pointer("weights", weights, fth::BlockPlan::alignment(ctx));
  if (!check.ok()) return check.status();
  const bool lora = kind >= FTH_LORA_A;
  const int32_t depths = norm ? fth::BlockPlan::norm_sets(*shape) : linear && lora ? shape->depths : 1;
  check.range("depth", depth, 0, depths - 1);
  if (linear) {
    check.that(fth::has_linear(*shape, part), "part %d needs shape.%s = 1", part, part == FTH_GATE ? "glu" : "cross");
    check.that(kind != FTH_BIAS || shape->bias, "a bias needs shape.bias = 1");
    check.that(!lora || shape->lora_rank[part] > 0, "LoRA of part %d needs shape.lora_rank[%d] > 0", part, part);
  } else if (norm) {
    check.that(fth::BlockPlan::uses_norm(*shape, part), "part %d is not used by shape.norm_placement %d, cross %d",
               part, shape->norm_placement, shape->cross);
    check.that(kind <= FTH_BIAS, "kind of a norm must be FTH_WEIGHT or FTH_BIAS, got %d", kind);
    check.that(kind != FTH_BIAS || shape->norm == FTH_LAYER_NORM,
               "the bias of a norm needs shape.norm = FTH_LAYER_NORM");
  } else {
    check.that(kind == FTH_WEIGHT && layer == 0, "part %d is one FTH_WEIGHT of layer 0", part);
    check.that(part != FTH_RELATIVE_BIAS || shape->relative_width > 0, "part %d needs shape.relative_width > 0", part);
  }
  if (!check.ok()) return check.status();
  const fth::BlockPlan plan(ctx, *shape);
  const fth::Target t = linear ? fth::target_of(plan, *shape, part) : fth::Target{};
  if (weight && !fth::check_source(check, source_type, t.part->shape.in)) return check.status();
  const int64_t elements = part == FTH_ROPE_FREQUENCY  ? shape->rotary_dim / 2
                           : part == FTH_RELATIVE_BIAS ? int64_t(shape->heads) * shape->relative_width
                           : norm                      ? shape->hidden_size
                           : kind == FTH_WEIGHT        ? t.rows * t.part->shape.in
                           : kind == FTH_BIAS          ? t.rows
                           : kind == FTH_LORA_A        ? t.rank * t.part->shape.in
                                                       : t.rows * t.rank;
  const int64_t source_bytes = weight ? t.rows * fth::source_bytes(source_type, t.part->shape.in)
                                      : fth::source_bytes(source_type, elements);
  check.disjoint("source", source, source_bytes, "weights", weights, plan.bytes);
  if (!check.on_device({{"weights", weights}})) return check.status();

  char* base = static_cast<char*>(weights);
  char* at = base + plan.first_layer + layer * plan.layer_bytes;
  const auto put = [&](char* to, int64_t first) {
    return fth::convert(ctx, source_type, source, elements, scale, reinterpret_cast<float*>(to) + first);
  };
  const auto pack = [&] {
    if (part == FTH_ROPE_FREQUENCY) return put(base + plan.frequency, 0);
    if (part == FTH_RELATIVE_BIAS) return put(base + plan.relative, 0);
    if (norm) {
      const int index = part - FTH_ATTENTION_PRE_NORM;
      return put(at + (kind == FTH_WEIGHT ? plan.gain[index] : plan.norm_bias[index]),
                 int64_t(depth) * shape->hidden_size);
    }
    const fth::LoraShape& pair = t.part->lora_shape;
    switch (kind) {
      case FTH_WEIGHT:
        return fth::pack_rows(ctx, t.part->shape, t.first, t.rows, scale, source_type, source, at + t.part->weight);
      case FTH_BIAS: return put(at + t.part->bias, t.first);
      case FTH_LORA_A:
        return fth::pack_rows(ctx, pair.a(), t.rank_first, t.rank, scale, source_type, source,
                              at + t.part->lora + pair.a_offset(depth));
      default:
        return fth::pack_lora_b(ctx, t, scale, source_type, source, at + t.part->lora + pair.b_offset(depth));
    }
  };
  return pack() ? fth::finish(ctx) : FTH_OUT_OF_MEMORY;
}

fth_status fth_block_scratch_bytes(fth_context* ctx, const fth_block_shape* shape, int64_t count, int64_t* bytes) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  fth::check_shape(check, shape);
  check.range("count", count, 0, fth::kMostRows);
  check.array("bytes", bytes);
  if (!check.ok()) return check.status();
  const fth::BlockPlan plan(ctx, *shape);
  const size_t words = fth::step_words(*shape, count) + size_t(fth::check_distinct_words(count)) * sizeof(int32_t);
  const size_t kernels = fth::step_scratch(ctx, *shape, plan, count);
  const size_t tasks = size_t(fth::most_tasks(ctx, *shape, nullptr, 1)) * sizeof(fth::gpu::Task);
  *bytes = int64_t(fth::grown_scratch(FTH_ON_DEVICE(ctx) ? kernels + tasks : words + kernels));
  return FTH_OK;
}

fth_status fth_block(fth_context* ctx, const fth_block_shape* shape, int64_t count, const fth_row* rows,
                     const fth_row* cross_rows, const void* weights, const int32_t* entries, int64_t entry_count,
                     const int32_t* entry_position, int64_t pool_entries, void* pool, float* hidden) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  fth::check_shape(check, shape);
  if (!check.ok()) return check.status();
  check.range("count", count, 0, fth::kMostRows);
  check.at_least("entry_count", entry_count, 0);
  const bool any = count > 0;
  check.array("rows", rows, any);
  check.array("cross_rows", cross_rows, any && shape->cross);
  check.that(cross_rows == nullptr || shape->cross, "cross_rows must be null without shape.cross");
  check.array("entry_position", entry_position, false);
  check.pointer("weights", weights, fth::BlockPlan::alignment(ctx), any);
  check.array("entries", entries, any && entry_count > 0);
  check.pointer("pool", pool, fth::pool_alignment(ctx), any);
  check.array("hidden", hidden, any);
  fth_kv_shape kv;
  if (!fth::check_pool(check, *shape, pool_entries, &kv)) return check.status();
  const fth::BlockPlan plan(ctx, *shape);
  const int64_t row_bytes = count * int64_t(sizeof(fth_row));
  check.disjoint({{"rows", rows, row_bytes},
                  {"cross_rows", cross_rows, row_bytes},
                  {"weights", weights, plan.bytes},
                  {"entries", entries, entry_count * 4},
                  {"entry_position", entry_position, pool_entries * 4}},
                 {{"hidden", hidden, count * shape->hidden_size * 4}, {"pool", pool, fth::pool_bytes(ctx, kv)}});
  check.on_host({{"rows", rows}, {"cross_rows", cross_rows}, {"entries", entries}});
  check.on_device({{"weights", weights}, {"entry_position", entry_position}, {"pool", pool}, {"hidden", hidden}});
  if (!check.ok() || !any) return check.status();
  const fth::Entries written = fth::entries_of(rows, count);
  check.depths(rows, count, shape->depths);
  fth::check_lists(check, "rows", rows, count, entries, entry_count, pool_entries);
  if (shape->cross) fth::check_lists(check, "cross_rows", cross_rows, count, entries, entry_count, pool_entries);
  if (!fth::check_entries(check, written, pool_entries)) return check.status();

  fth::Layout host, kernels;
  const size_t distinct_at = host.add<int32_t>(fth::check_distinct_words(count));
  const size_t words_at = host.add<char>(int64_t(fth::step_words(*shape, count)));
  kernels.add<char>(int64_t(fth::step_scratch(ctx, *shape, plan, count)));
  const int64_t tasks = fth::most_tasks(ctx, *shape, nullptr, 1);
  const size_t tasks_at = kernels.add<fth::gpu::Task>(tasks);
  fth::Scratch scratch;
  if (!fth::reserve(ctx, host, kernels, &scratch)) return FTH_OUT_OF_MEMORY;
  if (!fth::check_distinct(check, written, reinterpret_cast<int32_t*>(scratch.host + distinct_at)))
    return check.status();
  fth::StepRows step;
  const fth_status status =
      fth::step_rows(ctx, *shape, count, rows, cross_rows, entries, entry_count, scratch.host + words_at, &step);
  if (status != FTH_OK) return status;
  fth::run_together(ctx, tasks, count, *shape, scratch.kernels + tasks_at, [&] {
    fth::run_step(ctx, *shape, plan, step, weights, fth::pool_of(ctx, kv, pool), entry_position, hidden,
                  scratch.kernels);
  });
  return fth::finish(ctx);
}

}  // extern "C"
