#include "linear.h"

#include "simd/scalar.h"

namespace fth {
namespace {

float load(int32_t type, const void* source, int64_t i) {
  if (type == FTH_F32) return static_cast<const float*>(source)[i];
  const uint16_t bits = static_cast<const uint16_t*>(source)[i];
  return type == FTH_BF16 ? float_of_bf16(bits) : float_of_f16(bits);
}

// Index of element (column, i) of a panel.
int64_t packed_index(int32_t type, int64_t column, int64_t i) {
  return type == FTH_F32 ? i * linear::kPanel + column : (i / 2 * linear::kPanel + column) * 2 + i % 2;
}

void store(int32_t type, void* panel, int64_t column, int64_t i, float value) {
  const int64_t at = packed_index(type, column, i);
  if (type == FTH_F32) static_cast<float*>(panel)[at] = value;
  else static_cast<uint16_t*>(panel)[at] = bf16_of_float(value);
}

int64_t clamp(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

// The products of one parallel region, cut into work items: some panels times some rows of one product.
class Region {
 public:
  explicit Region(fth_context* ctx) : ctx_(ctx) {}

  void add(const linear::Args& args, int32_t weight_type) {
    if (args.count <= 0) return;
    if (size_ == kMost) run();
    const int64_t workers = ctx_->info.workers, panels = ceil_div(args.n, linear::kPanel);
    Part& part = parts_[size_++];
    part.args = args;
    part.kernel = panels_kernel(ctx_, weight_type);
    int64_t chunks = ceil_div(args.count, linear::kRowChunk);
    if (workers > 1 && panels * chunks < 4 * workers) chunks = ceil_div(4 * workers, panels);
    part.rows = round_up(ceil_div(args.count, chunks), kTile);
    part.chunks = ceil_div(args.count, part.rows);
    // Where rows come in several chunks, a chunk that is in the cache meets a few panels before the next one does.
    part.width = part.chunks == 1 ? 1 : clamp(panels * part.chunks / (8 * workers), 1, 8);
    items_ += ceil_div(panels, part.width) * part.chunks;
    part.end = items_;
    const int64_t in = args.k * linear::kPanel * (args.glu ? 2 : 1) * element_bytes(weight_type);
    cost_ += double(in) * double(panels * ceil_div(args.count, kTile));
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

}  // namespace

void pack_rows(fth_context* ctx, const WeightShape& shape, int64_t first, int64_t count, float scale,
               int32_t source_type, const void* source, void* packed) {
  constexpr int64_t kPanel = linear::kPanel, kBlock = 64;  // a block of a panel stays in the L1 cache
  const int64_t panels = ceil_div(shape.out, kPanel), halves = shape.glu ? 2 : 1;
  parallel(ctx, panels * halves, 1, [&](int64_t panel_begin, int64_t panel_end, int) {
    for (int64_t p = panel_begin; p < panel_end; p++) {
      const int64_t first_of_panel = p / halves * kPanel, half = p % halves * shape.out;
      const int64_t columns = shape.out - first_of_panel < kPanel ? shape.out - first_of_panel : kPanel;
      int64_t begin = first - half - first_of_panel, end = begin + count;
      if (begin < 0) begin = 0;
      if (end > columns) end = columns;
      if (begin >= end) continue;
      const int64_t padded = end == columns ? kPanel : end;  // whoever packs the last column zeroes those behind it
      void* panel = static_cast<char*>(packed) + p * shape.panel_bytes();
      const int64_t stored = x_stride(shape.in, shape.type);
      for (int64_t block = 0; block < stored; block += kBlock)
        for (int64_t column = begin; column < padded; column++)
          for (int64_t i = block; i < block + kBlock && i < stored; i++) {
            const int64_t row = half + first_of_panel + column - first;
            const bool padding = column >= columns || i >= shape.in;
            store(shape.type, panel, column, i, padding ? 0 : load(source_type, source, row * shape.in + i) * scale);
          }
    }
  });
}

void packed_row(const WeightShape& shape, const void* packed, int64_t row, float* out) {
  const int64_t j = row % shape.out, half = row / shape.out;
  const int64_t p = j / linear::kPanel * (shape.glu ? 2 : 1) + half;
  const char* panel = static_cast<const char*>(packed) + p * shape.panel_bytes();
  for (int64_t i = 0; i < shape.in; i++)
    out[i] = load(shape.type, panel, packed_index(shape.type, j % linear::kPanel, i));
}

void convert(int32_t source_type, const void* source, int64_t count, float scale, float* out) {
  for (int64_t i = 0; i < count; i++) out[i] = load(source_type, source, i) * scale;
}

DepthGroups group_by_depth(const fth_row* rows, const int32_t* subset, int64_t count, int32_t depths, int32_t* order,
                           int32_t* begin) {
  const auto row = [&](int64_t i) { return subset == nullptr ? int32_t(i) : subset[i]; };
  for (int32_t d = 0; d <= depths; d++) begin[d] = 0;
  for (int64_t i = 0; i < count; i++) begin[rows[row(i)].depth + 1]++;
  for (int32_t d = 0; d < depths; d++) begin[d + 1] += begin[d];
  for (int64_t i = 0; i < count; i++) order[begin[rows[row(i)].depth]++] = row(i);
  for (int32_t d = depths; d > 0; d--) begin[d] = begin[d - 1];  // the loop above moved each to its group's end
  begin[0] = 0;
  return {order, begin, depths};
}

void run_linears(fth_context* ctx, LinearCall* calls, int count) {
  // A_d x, then B_d (A_d x) into the addend, depth by depth; then the products themselves.
  Region region(ctx);
  for (int stage = 0; stage < 2; stage++) {
    for (int c = 0; c < count; c++) {
      LinearCall& call = calls[c];
      if (call.lora == nullptr) continue;
      const LoraShape& lora = call.lora_shape;
      const bool bf16 = lora.type == FTH_BF16;
      const int64_t inner_stride = x_stride(lora.rank, lora.type);
      for (int32_t d = 0; d < call.groups->depths; d++) {
        const int32_t* begin = call.groups->begin + d;
        if (begin[0] == begin[1]) continue;
        linear::Args args{};
        args.rows = call.groups->order + begin[0];
        args.count = begin[1] - begin[0];
        if (stage == 0) {
          args.weight = static_cast<const char*>(call.lora) + lora.a_offset(d);
          args.k = lora.in;
          args.n = lora.rank;
          args.x = call.product.x;
          args.x_stride = call.product.x_stride;
          args.y = bf16 ? nullptr : static_cast<float*>(call.lora_inner);
          args.y_bf16 = bf16 ? static_cast<uint16_t*>(call.lora_inner) : nullptr;
          args.y_stride = args.y_bf16_stride = inner_stride;
        } else {
          args.weight = static_cast<const char*>(call.lora) + lora.b_offset(d);
          args.k = lora.rank;
          args.n = lora.w_rows;
          args.x = call.lora_inner;
          args.x_stride = inner_stride;
          args.y = call.lora_addend;
          args.y_stride = lora.w_rows;
        }
        region.add(args, lora.type);
      }
    }
    region.run();
  }
  for (int c = 0; c < count; c++) {
    if (calls[c].lora != nullptr) {
      calls[c].product.addend = calls[c].lora_addend;
      calls[c].product.addend_stride = calls[c].lora_shape.w_rows;
    }
    region.add(calls[c].product, calls[c].weight_type);
  }
  region.run();
}

void round_rows(fth_context* ctx, const float* x, int64_t in, int64_t count, uint16_t* y) {
  const auto kernel = for_isa(ctx, linear::scalar::round, linear::avx2::round, linear::avx512::round);
  parallel(ctx, count, 16384 / in,
           [&](int64_t begin, int64_t end, int) { kernel(x, in, in, y, x_stride(in, FTH_BF16), begin, end); });
}

linear::Panels* panels_kernel(const fth_context* ctx, int32_t weight_type) {
  using namespace linear;
  if (weight_type == FTH_F32) return for_isa(ctx, scalar::panels_f32, avx2::panels_f32, avx512::panels_f32);
  if (ctx->info.bf16_dot) return avx512bf16::panels_bf16;
  return for_isa(ctx, scalar::panels_bf16, avx2::panels_bf16, avx512::panels_bf16);
}

}  // namespace fth

namespace {

using fth::Check;
using fth::WeightShape;

WeightShape weight_of(const fth_linear_shape* s) {
  return {s->in_features, s->out_features, s->weight_type, s->glu != 0};
}
fth::LoraShape lora_of(const fth_linear_shape* s) {
  return {s->in_features, s->lora_rank, weight_of(s).rows(), s->weight_type, s->lora_depths};
}

bool check_shape(Check& check, const fth_linear_shape* shape) {
  if (!check.array("shape", shape)) return false;
  check.range("shape.in_features", shape->in_features, 1, fth::kMostFeatures);
  check.range("shape.out_features", shape->out_features, 1, fth::kMostFeatures);
  check.range("shape.weight_type", shape->weight_type, FTH_F32, FTH_BF16);
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

int64_t source_bytes(int32_t type, int64_t elements) { return elements * (type == FTH_F32 ? 4 : 2); }
size_t source_alignment(int32_t type) { return type == FTH_F32 ? 4 : 2; }

}  // namespace

extern "C" {

fth_status fth_linear_bytes(fth_context* ctx, const fth_linear_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = weight_of(shape).bytes();
  return FTH_OK;
}

fth_status fth_linear_pack(fth_context* ctx, const fth_linear_shape* shape, int64_t first, int64_t count,
                           int32_t source_type, const void* source, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape)) return check.status();
  const WeightShape weight = weight_of(shape);
  check.range("source_type", source_type, FTH_F32, FTH_F16);
  check.range("first", first, 0, weight.rows());
  check.range("count", count, 0, weight.rows() - first);
  if (!check.ok()) return check.status();
  check.pointer("source", source, source_alignment(source_type), count > 0);
  check.pointer("packed", packed, size_t(fth::element_bytes(weight.type)), count > 0);
  check.disjoint("source", source, source_bytes(source_type, count * weight.in), "packed", packed, weight.bytes());
  if (!check.ok()) return check.status();
  fth::pack_rows(ctx, weight, first, count, 1.f, source_type, source, packed);
  return FTH_OK;
}

fth_status fth_lora_bytes(fth_context* ctx, const fth_linear_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_lora(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = lora_of(shape).bytes();
  return FTH_OK;
}

fth_status fth_lora_pack(fth_context* ctx, const fth_linear_shape* shape, int32_t depth, float scale,
                         int32_t source_type, const void* a, const void* b, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_lora(check, shape)) return check.status();
  const fth::LoraShape lora = lora_of(shape);
  check.range("depth", depth, 0, lora.depths - 1);
  check.finite("scale", scale);
  check.range("source_type", source_type, FTH_F32, FTH_F16);
  if (!check.ok()) return check.status();
  check.pointer("a", a, source_alignment(source_type));
  check.pointer("b", b, source_alignment(source_type));
  check.pointer("packed", packed, size_t(fth::element_bytes(lora.type)));
  check.disjoint("a", a, source_bytes(source_type, lora.rank * lora.in), "packed", packed, lora.bytes());
  check.disjoint("b", b, source_bytes(source_type, lora.w_rows * lora.rank), "packed", packed, lora.bytes());
  if (!check.ok()) return check.status();
  char* bytes = static_cast<char*>(packed);
  fth::pack_rows(ctx, lora.a(), 0, lora.rank, 1.f, source_type, a, bytes + lora.a_offset(depth));
  fth::pack_rows(ctx, lora.b(), 0, lora.w_rows, scale, source_type, b, bytes + lora.b_offset(depth));
  return FTH_OK;
}

fth_status fth_linear(fth_context* ctx, const fth_linear_shape* shape, int64_t count, const fth_row* rows,
                      const float* x, const void* packed, const float* bias, const void* lora, const float* residual,
                      const float* gate, float* y) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!check_shape(check, shape)) return check.status();
  const WeightShape weight = weight_of(shape);
  const fth::LoraShape lora_shape = lora_of(shape);
  const bool with_lora = shape->lora_rank > 0 && lora != nullptr;
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  const size_t element = size_t(fth::element_bytes(weight.type));
  check.array("rows", rows, any && with_lora);
  check.array("x", x, any);
  check.pointer("packed", packed, element, any);
  check.array("bias", bias, false);
  check.pointer("lora", lora, element, false);
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
  if (!check.ok()) return check.status();

  // Long inputs go in slabs, so that scratch does not grow with them.
  constexpr int64_t kSlab = 4096;
  const int64_t slab = count < kSlab ? count : kSlab;
  const bool bf16 = weight.type == FTH_BF16;
  fth::Layout layout;
  const size_t rounded_at = layout.add<uint16_t>(bf16 ? slab * fth::x_stride(weight.in, FTH_BF16) : 0);
  const size_t order_at = layout.add<int32_t>(with_lora ? slab : 0);
  const size_t begin_at = layout.add<int32_t>(with_lora ? shape->lora_depths + 1 : 0);
  const fth::LoraScratch lora_at(layout, lora_shape, with_lora ? slab : 0);
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr && layout.bytes() > 0) return FTH_OUT_OF_MEMORY;

  for (int64_t first = 0; first < count; first += slab) {
    const int64_t n = count - first < slab ? count - first : slab;
    const float* slab_x = x + first * weight.in;
    uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch + rounded_at);
    if (bf16) fth::round_rows(ctx, slab_x, weight.in, n, rounded);

    fth::DepthGroups groups{};
    if (with_lora)
      groups = fth::group_by_depth(rows + first, nullptr, n, shape->lora_depths,
                                   reinterpret_cast<int32_t*>(scratch + order_at),
                                   reinterpret_cast<int32_t*>(scratch + begin_at));
    fth::linear::Args args{};
    args.weight = packed;
    args.k = weight.in;
    args.n = weight.out;
    args.glu = weight.glu;
    args.activation = shape->activation;
    args.x = bf16 ? static_cast<const void*>(rounded) : slab_x;
    args.x_stride = fth::x_stride(weight.in, weight.type);
    args.count = n;
    args.bias = bias;
    args.residual = residual == nullptr ? nullptr : residual + first * weight.out;
    args.residual_stride = weight.out;
    args.gate = gate == nullptr ? nullptr : gate + first;
    args.y = y + first * weight.out;
    args.y_stride = weight.out;
    fth::LinearCall linear{args,
                           weight.type,
                           with_lora ? lora : nullptr,
                           lora_shape,
                           scratch + lora_at.inner,
                           reinterpret_cast<float*>(scratch + lora_at.addend),
                           &groups};
    fth::run_linears(ctx, &linear, 1);
  }
  return FTH_OK;
}

}  // extern "C"
