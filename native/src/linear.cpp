#include "linear.h"

namespace fth {
namespace {

int64_t clamp(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

// Elements of x whose conversion is worth handing to another thread.
constexpr int64_t kLeastElements = 16384;

// The products of one parallel region, cut into work items: some panels times some rows of one product.
class Region {
 public:
  explicit Region(fth_context* ctx) : ctx_(ctx) {}

  void add(const linear::Args& args) {
    if (args.count <= 0) return;
    if (size_ == kMost) run();
    const int64_t workers = ctx_->info.workers, panels = ceil_div(args.n, linear::kPanel);
    Part& part = parts_[size_++];
    part.args = args;
    part.kernel = panels_kernel(ctx_, args.type);
    int64_t chunks = ceil_div(args.count, linear::kRowChunk);
    if (workers > 1 && panels * chunks < 4 * workers) chunks = ceil_div(4 * workers, panels);
    part.rows = round_up(ceil_div(args.count, chunks), kTile);
    part.chunks = ceil_div(args.count, part.rows);
    // Where rows come in several chunks, a chunk that is in the cache meets a few panels before the next one does.
    part.width = part.chunks == 1 ? 1 : clamp(panels * part.chunks / (8 * workers), 1, 8);
    items_ += ceil_div(panels, part.width) * part.chunks;
    part.end = items_;
    const int64_t panel_bytes = linear::panel_bytes(args.type, args.k) * (args.glu ? 2 : 1);
    cost_ += double(panel_bytes) * double(panels * ceil_div(args.count, kTile));
  }

  void run() {
    if (size_ == 0) return;
    // Items smaller than this are not worth handing to another thread one by one.
    const int64_t grain = int64_t(kPiece * double(items_) / cost_);
    parallel(ctx_, items_, grain, [this](int64_t begin, int64_t end, int) {
      const Part* part = parts_;
      for (int64_t item = begin; item < end; item++) {
        while (item >= part->end) part++;
        const int64_t local = item - (part == parts_ ? 0 : part[-1].end);
        const int64_t panel = local / part->chunks * part->width, row = local % part->chunks * part->rows;
        const int64_t panels = ceil_div(part->args.n, linear::kPanel);
        part->kernel(part->args, panel, clamp(panel + part->width, 0, panels), row,
                     clamp(row + part->rows, 0, part->args.count));
      }
    });
    size_ = 0;
    items_ = 0;
    cost_ = 0;
  }

 private:
  static constexpr int kMost = 32;
  static constexpr int64_t kTile = 6;         // rows of a register tile
  static constexpr double kPiece = 64 << 10;  // bytes of weights read, once per tile

  struct Part {
    linear::Args args;
    linear::Panels* kernel;
    int64_t rows, chunks, width, end;
  };
  fth_context* ctx_;
  Part parts_[kMost];
  int size_ = 0;
  int64_t items_ = 0;
  double cost_ = 0;
};

// A_d x of all calls, then the products, to which those add that have B_d (A_d x).
void enqueue_linears(fth_context* ctx, LinearCall* calls, int count) {
  const linear::Workspace space = ctx->device->workspace();
  const gpu::Queue queue = ctx->device->queue();
  constexpr int kMost = 4;  // in one launch
  for (int first = 0; first < count; first += kMost) {
    linear::Product inner[kMost], outer[kMost];
    int inners = 0, outers = 0;
    for (int c = first; c < count && c < first + kMost; c++) {
      const LinearCall& call = calls[c];
      linear::Product& product = outer[outers++] = {call.product.type, call.product, {}};
      if (call.lora == nullptr) continue;
      const LoraShape& lora = call.lora_shape;
      const auto by_depth = [&](const WeightShape& w, int64_t offset, const void* x) {
        return linear::ByDepth{static_cast<const char*>(call.lora) + offset,
                               lora.a_offset(1),
                               linear::tiles::strip_bytes(w.type, w.in),
                               linear::tiles::steps(w.type, w.in),
                               w.in,
                               x,
                               x_bytes(w.in, w.type),
                               call.groups->rows};
      };
      linear::Args args{};
      args.n = lora.rank;
      args.rows = call.product.rows;
      args.count = call.product.count;
      args.live = call.product.live;
      if (lora.type == FTH_BF16) args.y_bf16 = static_cast<uint16_t*>(call.lora_inner);
      else args.y = static_cast<float*>(call.lora_inner);
      args.y_stride = lora.rank;
      args.y_bf16_stride = x_bytes(lora.rank, FTH_BF16) / 2;
      inner[inners++] = {lora.type, args, by_depth(lora.a(), 0, call.lora_x)};
      product.by_depth = by_depth(lora.b(), lora.b_offset(0), call.lora_inner);
    }
    linear::cuda::products(inner, inners, space, queue);
    linear::cuda::products(outer, outers, space, queue);
  }
}

}  // namespace

DepthGroups group_by_depth(const fth_row* rows, const int32_t* subset, int64_t count, int32_t depths, int32_t* order,
                           int32_t* begin) {
  const auto row = [&](int64_t i) { return subset == nullptr ? int32_t(i) : subset[i]; };
  for (int32_t d = 0; d <= depths; d++) begin[d] = 0;
  for (int64_t i = 0; i < count; i++) begin[rows[row(i)].depth + 1]++;
  for (int32_t d = 0; d < depths; d++) begin[d + 1] += begin[d];
  for (int64_t i = 0; i < count; i++) order[begin[rows[row(i)].depth]++] = row(i);
  for (int32_t d = depths; d > 0; d--) begin[d] = begin[d - 1];  // the loop above moved each to its group's end
  begin[0] = 0;
  return {order, begin, depths, nullptr};
}

void run_linears(fth_context* ctx, LinearCall* calls, int count) {
  if (FTH_ON_DEVICE(ctx)) return enqueue_linears(ctx, calls, count);
  // A_d x, then B_d (A_d x) into the addend, depth by depth; then the products themselves.
  Region region(ctx);
  for (int stage = 0; stage < 2; stage++) {
    for (int c = 0; c < count; c++) {
      LinearCall& call = calls[c];
      if (call.lora == nullptr) continue;
      const LoraShape& lora = call.lora_shape;
      const bool bf16 = lora.type == FTH_BF16;
      const int64_t inner_bytes = x_bytes(lora.rank, lora.type);
      for (int32_t d = 0; d < call.groups->depths; d++) {
        const int32_t* begin = call.groups->begin + d;
        if (begin[0] == begin[1]) continue;
        linear::Args args{};
        args.type = lora.type;
        args.rows = call.groups->order + begin[0];
        args.count = begin[1] - begin[0];
        if (stage == 0) {
          args.weight = static_cast<const char*>(call.lora) + lora.a_offset(d);
          args.k = lora.in;
          args.n = lora.rank;
          args.x = call.lora_x;
          args.x_bytes = x_bytes(lora.in, lora.type);
          args.y = bf16 ? nullptr : static_cast<float*>(call.lora_inner);
          args.y_bf16 = bf16 ? static_cast<uint16_t*>(call.lora_inner) : nullptr;
          args.y_stride = lora.rank;
          args.y_bf16_stride = inner_bytes / 2;
        } else {
          args.weight = static_cast<const char*>(call.lora) + lora.b_offset(d);
          args.k = lora.rank;
          args.n = lora.w_rows;
          args.x = call.lora_inner;
          args.x_bytes = inner_bytes;
          args.y = call.lora_addend;
          args.y_stride = lora.w_rows;
        }
        region.add(args);
      }
    }
    region.run();
  }
  for (int c = 0; c < count; c++) {
    if (calls[c].lora != nullptr) {
      calls[c].product.addend = calls[c].lora_addend;
      calls[c].product.addend_stride = calls[c].lora_shape.w_rows;
    }
    region.add(calls[c].product);
  }
  region.run();
}

Input input_of(fth_context* ctx, const float* x, int64_t in, int32_t weight_type, int64_t count,
               const InputScratch& at, char* scratch) {
  if (weight_type == FTH_F32) return {x, x};
  const bool codes = quantised(weight_type);
  uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch + (codes ? at.rounded : at.x));
  char* const to = scratch + at.x;
  if (FTH_ON_DEVICE(ctx)) {
    const gpu::Queue queue = ctx->device->queue();
    if (!codes || at.lora) linear::cuda::round(x, in, rounded, x_bytes(in, FTH_BF16) / 2, count, queue);
    if (codes) linear::cuda::quantise(x, in, linear::span_of(weight_type), to, count, queue);
    return {codes ? static_cast<const void*>(to) : rounded, rounded};
  }
  if (!codes || at.lora) {
    const auto round = for_isa(ctx, linear::scalar::round, linear::avx2::round, linear::avx512::round);
    parallel(ctx, count, kLeastElements / in, [&](int64_t begin, int64_t end, int) {
      round(x, in, in, rounded, x_bytes(in, FTH_BF16) / 2, begin, end);
    });
  }
  if (!codes) return {rounded, rounded};
  const auto quantise = for_isa(ctx, linear::scalar::quantise, linear::avx2::quantise, linear::avx512::quantise);
  parallel(ctx, count, kLeastElements / in, [&](int64_t begin, int64_t end, int) {
    quantise(x, in, linear::span_of(weight_type), to, begin, end);
  });
  return {to, rounded};
}

linear::Panels* panels_kernel(const fth_context* ctx, int32_t weight_type) {
  using namespace linear;
  if (weight_type == FTH_F32) return for_isa(ctx, scalar::panels_f32, avx2::panels_f32, avx512::panels_f32);
  if (weight_type == FTH_BF16) {
    if (ctx->info.bf16_dot) return avx512bf16::panels_bf16;
    return for_isa(ctx, scalar::panels_bf16, avx2::panels_bf16, avx512::panels_bf16);
  }
  if (weight_type == FTH_F8_E4M3) {
    if (ctx->info.bf16_dot) return avx512bf16::panels_f8;
    return for_isa(ctx, scalar::panels_f8, avx2::panels_f8, avx512::panels_f8);
  }
  if (ctx->info.int8_dot)
    return for_isa(ctx, scalar::panels_quantised, avx2vnni::panels_quantised, avx512vnni::panels_quantised);
  return for_isa(ctx, scalar::panels_quantised, avx2::panels_quantised, avx2::panels_quantised);
}

}  // namespace fth

namespace {

using fth::Check;
using fth::WeightShape;

WeightShape weight_of(const fth_context* ctx, const fth_linear_shape* s) {
  return {s->in_features, s->out_features, s->weight_type, s->glu != 0, FTH_ON_DEVICE(ctx)};
}
fth::LoraShape lora_of(const fth_context* ctx, const fth_linear_shape* s) {
  return {weight_of(ctx, s), s->lora_rank, s->lora_depths};
}

bool check_shape(Check& check, const fth_linear_shape* shape) {
  if (!check.array("shape", shape)) return false;
  check.range("shape.in_features", shape->in_features, 1, fth::kMostFeatures);
  check.range("shape.out_features", shape->out_features, 1, fth::kMostFeatures);
  fth::check_weight_type(check, shape->weight_type);
  check.range("shape.activation", shape->activation, FTH_IDENTITY, FTH_SILU);
  check.range("shape.glu", shape->glu, 0, 1);
  check.range("shape.residual", shape->residual, FTH_RESIDUAL_NONE, FTH_RESIDUAL_GATED);
  check.range("shape.lora_rank", shape->lora_rank, 0, 65536);
  if (shape->lora_rank > 0) check.range("shape.lora_depths", shape->lora_depths, 1, 65536);
  return check.ok();
}

bool check_lora(Check& check, const fth_linear_shape* shape) {
  return check_shape(check, shape) &&
         check.that(shape->lora_rank > 0, "shape.lora_rank must be at least 1, got %d", shape->lora_rank);
}

}  // namespace

extern "C" {

fth_status fth_linear_bytes(fth_context* ctx, const fth_linear_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = weight_of(ctx, shape).bytes();
  return FTH_OK;
}

fth_status fth_linear_pack(fth_context* ctx, const fth_linear_shape* shape, int64_t first, int64_t count,
                           int32_t source_type, const void* source, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape)) return check.status();
  const WeightShape weight = weight_of(ctx, shape);
  fth::check_source(check, source_type, weight.in);
  check.range("first", first, 0, weight.rows());
  check.range("count", count, 0, weight.rows() - first);
  if (!check.ok()) return check.status();
  check.pointer("source", source, fth::source_alignment(source_type), count > 0);
  check.pointer("packed", packed, weight.alignment(), count > 0);
  check.disjoint("source", source, count * fth::source_bytes(source_type, weight.in), "packed", packed,
                 weight.bytes());
  check.on_device({{"packed", packed}});
  if (!check.ok()) return check.status();
  if (!fth::pack_rows(ctx, weight, first, count, 1.f, source_type, source, packed)) return FTH_OUT_OF_MEMORY;
  return fth::finish(ctx);
}

fth_status fth_lora_bytes(fth_context* ctx, const fth_linear_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_lora(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = lora_of(ctx, shape).bytes();
  return FTH_OK;
}

fth_status fth_lora_pack(fth_context* ctx, const fth_linear_shape* shape, int32_t depth, float scale,
                         int32_t source_type, const void* a, const void* b, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_lora(check, shape)) return check.status();
  const fth::LoraShape lora = lora_of(ctx, shape);
  check.range("depth", depth, 0, lora.depths - 1);
  check.finite("scale", scale);
  check.range("source_type", source_type, FTH_F32, FTH_F16);
  if (!check.ok()) return check.status();
  check.pointer("a", a, fth::alignment(source_type));
  check.pointer("b", b, fth::alignment(source_type));
  check.pointer("packed", packed, lora.a().alignment());
  check.disjoint("a", a, lora.rank * fth::source_bytes(source_type, lora.in), "packed", packed, lora.bytes());
  check.disjoint("b", b, lora.w_rows * fth::source_bytes(source_type, lora.rank), "packed", packed, lora.bytes());
  check.on_device({{"packed", packed}});
  if (!check.ok()) return check.status();
  char* bytes = static_cast<char*>(packed);
  if (!fth::pack_rows(ctx, lora.a(), 0, lora.rank, 1.f, source_type, a, bytes + lora.a_offset(depth)) ||
      !fth::pack_rows(ctx, lora.b(), 0, lora.w_rows, scale, source_type, b, bytes + lora.b_offset(depth)))
    return FTH_OUT_OF_MEMORY;
  return fth::finish(ctx);
}

fth_status fth_linear(fth_context* ctx, const fth_linear_shape* shape, int64_t count, const fth_row* rows,
                      const float* x, const void* packed, const float* bias, const void* lora, const float* residual,
                      const float* gate, float* y) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape)) return check.status();
  const WeightShape weight = weight_of(ctx, shape);
  const fth::LoraShape lora_shape = lora_of(ctx, shape);
  const bool with_lora = shape->lora_rank > 0 && lora != nullptr;
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  check.array("rows", rows, any && with_lora);
  check.array("x", x, any);
  check.pointer("packed", packed, weight.alignment(), any);
  check.array("bias", bias, false);
  check.pointer("lora", lora, lora_shape.a().alignment(), false);
  check.array("residual", residual, any && shape->residual != FTH_RESIDUAL_NONE);
  check.array("gate", gate, any && shape->residual == FTH_RESIDUAL_GATED);
  check.array("y", y, any);
  check.that(lora == nullptr || shape->lora_rank > 0, "lora must be null when shape.lora_rank is 0");
  if (!check.ok()) return check.status();
  if (shape->residual == FTH_RESIDUAL_NONE) residual = nullptr;
  if (shape->residual != FTH_RESIDUAL_GATED) gate = nullptr;
  const int64_t y_bytes = count * weight.out * 4;
  check.disjoint("x", x, count * weight.in * 4, "y", y, y_bytes);
  check.disjoint("packed", packed, weight.bytes(), "y", y, y_bytes);
  check.disjoint("bias", bias, weight.rows() * 4, "y", y, y_bytes);
  if (with_lora) {
    check.disjoint("lora", lora, lora_shape.bytes(), "y", y, y_bytes);
    check.disjoint("rows", rows, count * int64_t(sizeof(fth_row)), "y", y, y_bytes);
    check.depths(rows, count, shape->lora_depths);
  }
  if (residual != y) check.disjoint("residual", residual, y_bytes, "y", y, y_bytes);
  check.disjoint("gate", gate, count * 4, "y", y, y_bytes);
  if (with_lora) check.on_host({{"rows", rows}});
  check.on_device({{"x", x}, {"packed", packed}, {"bias", bias}, {"lora", lora}, {"residual", residual},
                   {"gate", gate}, {"y", y}});
  if (!check.ok() || !any) return check.status();
  const bool on_device = FTH_ON_DEVICE(ctx);

  // Long inputs go in slabs, so that scratch does not grow with them.
  constexpr int64_t kSlab = 4096;
  const int64_t slab = count < kSlab ? count : kSlab;
  fth::Layout layout;
  const fth::InputScratch input_at(layout, weight.in, weight.type, slab, false, with_lora);
  const size_t order_at = layout.add<int32_t>(with_lora && !on_device ? slab : 0);
  const size_t begin_at = layout.add<int32_t>(with_lora && !on_device ? shape->lora_depths + 1 : 0);
  const fth::LoraScratch lora_at(layout, lora_shape, with_lora ? slab : 0);
  char* scratch = ctx->reserve_device(layout.bytes());
  if (scratch == nullptr && layout.bytes() > 0) return FTH_OUT_OF_MEMORY;
  if (with_lora)
    if (const fth_status status = fth::stage(ctx, {fth::staged("rows", rows, count)})) return status;

  for (int64_t first = 0; first < count; first += slab) {
    const int64_t n = count - first < slab ? count - first : slab;
    const fth::Input input = fth::input_of(ctx, x + first * weight.in, weight.in, weight.type, n, input_at, scratch);
    fth::DepthGroups groups{};
    if (with_lora && on_device) groups.rows = rows + first;
    else if (with_lora)
      groups = fth::group_by_depth(rows + first, nullptr, n, shape->lora_depths,
                                   reinterpret_cast<int32_t*>(scratch + order_at),
                                   reinterpret_cast<int32_t*>(scratch + begin_at));
    fth::linear::Args args{};
    args.type = weight.type;
    args.weight = packed;
    args.k = weight.in;
    args.n = weight.out;
    args.glu = weight.glu;
    args.activation = shape->activation;
    args.x = input.x;
    args.x_bytes = fth::x_bytes(weight.in, weight.type);
    args.count = n;
    args.bias = bias;
    args.residual = residual == nullptr ? nullptr : residual + first * weight.out;
    args.residual_stride = weight.out;
    args.gate = gate == nullptr ? nullptr : gate + first;
    args.y = y + first * weight.out;
    args.y_stride = weight.out;
    fth::LinearCall linear{args,
                           with_lora ? lora : nullptr,
                           input.lora_x,
                           lora_shape,
                           scratch + lora_at.inner,
                           reinterpret_cast<float*>(scratch + lora_at.addend),
                           &groups};
    fth::run_linears(ctx, &linear, 1);
  }
  return fth::finish(ctx);
}

}  // extern "C"
