#include "gate.h"

namespace fth {

bool check_gate(Check& check, const fth_gate_shape* s) {
  if (!check.array("shape", s)) return false;
  check.range("shape.router", s->router, FTH_ROUTER_LINEAR, FTH_ROUTER_MLP);
  check.range("shape.hidden_size", s->hidden_size, 1, fth::kMostFeatures);
  if (s->router == FTH_ROUTER_MLP) check.range("shape.inner_size", s->inner_size, 1, fth::kMostFeatures);
  else check.range("shape.inner_size", s->inner_size, 0, 0);
  check.range("shape.outputs", s->outputs, 1, 4096);
  check.range("shape.depths", s->depths, 1, 4096);
  check.range("shape.function", s->function, FTH_GATE_NONE, FTH_GATE_SOFTMAX);
  check.that(s->temperature > 0 && s->temperature < 1e30f, "shape.temperature must be a finite number > 0, got %g",
             double(s->temperature));
  check.finite("shape.alpha", s->alpha);
  check.that(s->threshold == s->threshold, "shape.threshold must be a number, got %g", double(s->threshold));
  check.range("shape.activation", s->activation, FTH_IDENTITY, s->router == FTH_ROUTER_MLP ? FTH_SILU : FTH_IDENTITY);
  check.range("shape.bias", s->bias, 0, 1);
  return check.ok();
}

namespace {

// inner = act(W1 x / temperature + b1) of every row, by its depth.
void run_inner(fth_context* ctx, const Router& router, const fth_gate_shape& shape, int64_t count, const fth_row* rows,
               const float* x, const char* packed, int32_t* order, int32_t* begin, float* scaled, float* inner) {
  if (shape.temperature != 1) {
    fth::parallel(ctx, count * router.inner.in, 16384, [&](int64_t from, int64_t to, int) {
      for (int64_t k = from; k < to; k++) scaled[k] = x[k] / shape.temperature;
    });
    x = scaled;
  }
  fth::DepthGroups groups{};
  if (rows != nullptr) groups = fth::group_by_depth(rows, nullptr, count, router.depths, order, begin);
  // A few microseconds of work are not worth handing to another thread.
  const bool alone = count * router.inner.bytes() < 1 << 20;
  const auto kernel = fth::panels_kernel(ctx, FTH_F32);
  constexpr int kTogether = 8;
  fth::LinearCall calls[kTogether];
  int ready = 0;
  for (int32_t d = 0; d < router.depths; d++) {
    fth::linear::Args args{};
    const char* weights = packed + d * router.stride();
    args.type = FTH_F32;
    args.weight = weights;
    args.k = router.inner.in;
    args.n = router.inner.out;
    args.activation = shape.activation;
    args.x = x;
    args.x_bytes = router.inner.in * 4;
    args.rows = rows == nullptr ? nullptr : groups.order + groups.begin[d];
    args.count = rows == nullptr ? count : groups.begin[d + 1] - groups.begin[d];
    if (router.bias) args.bias = reinterpret_cast<const float*>(weights + router.inner_bias_offset());
    args.y = inner;
    args.y_stride = router.inner.out;
    if (alone) kernel(args, 0, fth::ceil_div(args.n, fth::linear::kPanel), 0, args.count);
    else if (args.count > 0) calls[ready++] = {args, nullptr, nullptr, {}, nullptr, nullptr, nullptr};
    if (ready == kTogether || d + 1 == router.depths) {
      fth::run_linears(ctx, calls, ready);
      ready = 0;
    }
  }
}

// The inner layer's products of every row with the weights of its depth, without bias and activation.
void enqueue_inner(fth_context* ctx, const Router& router, const fth_gate_shape& shape, int64_t count,
                   const fth_row* rows, const float* x, const char* packed, float* scaled, float* inner) {
  const fth::WeightShape& w = router.inner;
  if (shape.temperature != 1) {
    fth::gate::cuda::divide(x, shape.temperature, count * w.in, scaled, ctx->device->stream());
    x = scaled;
  }
  fth::linear::Args args{};
  args.n = w.out;
  args.count = count;
  args.y = inner;
  args.y_stride = w.out;
  fth::linear::ByDepth by_depth{};
  if (rows == nullptr) {
    args.weight = packed;
    args.k = w.in;
    args.x = x;
    args.x_bytes = w.in * 4;
  } else {
    by_depth = {packed, router.stride(), fth::linear::tiles::strip_bytes(w.type, w.in),
                fth::linear::tiles::steps(w.type, w.in), w.in, x, w.in * 4, rows};
  }
  const fth::linear::Product product{w.type, args, by_depth};
  fth::linear::cuda::products(&product, 1, ctx->device->workspace(), ctx->device->queue());
}

// Long inputs go in slabs, so that scratch does not grow with them and stays about 16 MiB.
struct GateScratch {
  int64_t slab;
  bool stores_logits;
  size_t logits, scaled, inner, order, begin;

  GateScratch(Layout& layout, const fth_context* ctx, const fth_gate_shape& s, const Router& router, int64_t count,
              bool with_logits) {
    constexpr int64_t kSlabFloats = 4 << 20, kLeast = 32, kMost = 1024;
    const bool on_device = FTH_ON_DEVICE(ctx);
    stores_logits = !with_logits && !on_device;
    slab = kSlabFloats / (router.outputs + (router.mlp ? router.inner.in + router.width : 0));
    slab = slab < kLeast ? kLeast : slab > kMost ? kMost : slab;
    if (slab > count || (on_device && !router.mlp)) slab = count;
    logits = layout.add<float>(stores_logits ? slab * router.outputs : 0);
    scaled = layout.add<float>(router.mlp && s.temperature != 1 ? slab * s.hidden_size : 0);
    inner = layout.add<float>(router.mlp ? slab * router.width : 0);
    order = layout.add<int32_t>(router.mlp && !on_device ? slab : 0);
    begin = layout.add<int32_t>(router.mlp && !on_device ? router.depths + 1 : 0);
  }
};

}  // namespace

size_t gate_scratch(const fth_context* ctx, const fth_gate_shape& shape, int64_t count, bool with_logits) {
  Layout layout;
  GateScratch(layout, ctx, shape, Router(ctx, shape), count, with_logits);
  return layout.bytes();
}

void run_gate(fth_context* ctx, const fth_gate_shape& shape, int64_t count, const fth_row* rows, const float* x,
              const void* packed, const float* choice_bias, const GateResults& to, char* scratch) {
  const Router router(ctx, shape);
  Layout layout;
  const GateScratch at(layout, ctx, shape, router, count, to.logits != nullptr);
  const bool on_device = FTH_ON_DEVICE(ctx);
  float* inner = reinterpret_cast<float*>(scratch + at.inner);
  const char* weights = static_cast<const char*>(packed);

  const auto kernel =
      for_isa(ctx, gate::scalar::logits, gate::avx2::logits, gate::avx512::logits);
  for (int64_t first = 0; first < count; first += at.slab) {
    const int64_t n = count - first < at.slab ? count - first : at.slab;
    const fth_row* slab_rows = rows == nullptr ? nullptr : rows + first;
    const float* slab_x = x + first * shape.hidden_size;
    float* scaled = reinterpret_cast<float*>(scratch + at.scaled);
    if (router.mlp && on_device)
      enqueue_inner(ctx, router, shape, n, slab_rows, slab_x, weights, scaled, inner);
    else if (router.mlp)
      run_inner(ctx, router, shape, n, slab_rows, slab_x, weights, reinterpret_cast<int32_t*>(scratch + at.order),
                reinterpret_cast<int32_t*>(scratch + at.begin), scaled, inner);
    const int64_t out = first * router.outputs;
    float* z = at.stores_logits       ? reinterpret_cast<float*>(scratch + at.logits)
               : to.logits == nullptr ? nullptr
                                   : to.logits + out;
    const gate::Logits product{
        .x = router.mlp ? inner : slab_x,
        .rows = slab_rows,
        .w = reinterpret_cast<const float*>(weights + router.last_offset()),
        .b = router.bias ? reinterpret_cast<const float*>(weights + router.last_bias_offset()) : nullptr,
        .stride = router.stride() / 4,
        .width = router.width,
        .outputs = router.outputs,
        .temperature = router.mlp ? 1.f : shape.temperature,
        .logits = z};
    const gate::Decision decision{.logits = z,
                                       .bias = choice_bias,
                                       .outputs = router.outputs,
                                       .function = shape.function,
                                       .alpha = shape.alpha,
                                       .threshold = shape.threshold,
                                       .p = to.p == nullptr ? nullptr : to.p + out,
                                       .gate = to.gate + first,
                                       .choice = to.choice + first};
    if (on_device) {
      const float* bias =
          router.mlp && router.bias ? reinterpret_cast<const float*>(weights + router.inner_bias_offset()) : nullptr;
      gate::cuda::rows(product, {bias, shape.activation}, decision, n, ctx->device->queue());
      continue;
    }
    parallel(ctx, n, 65536 / (router.width * router.outputs), [&](int64_t begin, int64_t end, int) {
      kernel(product, begin, end);
      gate::decide(decision, begin, end);
    });
  }
}

}  // namespace fth

using fth::Check;
using fth::Router;

extern "C" {

fth_status fth_gate_bytes(fth_context* ctx, const fth_gate_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!fth::check_gate(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = Router(ctx, *shape).bytes();
  return FTH_OK;
}

fth_status fth_gate_pack(fth_context* ctx, const fth_gate_shape* shape, int32_t depth, int32_t part,
                         int32_t source_type, const void* source, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!fth::check_gate(check, shape)) return check.status();
  const Router router(ctx, *shape);
  check.range("depth", depth, 0, router.depths - 1);
  check.range("part", part, FTH_GATE_W1, router.mlp ? FTH_GATE_B2 : FTH_GATE_B1);
  const bool is_bias = part == FTH_GATE_B1 || part == FTH_GATE_B2;
  check.that(router.bias || !is_bias, "part must be a weight when shape.bias is 0, got %d", part);
  check.range("source_type", source_type, FTH_F32, FTH_F16);
  if (!check.ok()) return check.status();
  const bool is_inner = router.mlp && part <= FTH_GATE_B1;
  const int64_t out = is_inner ? router.inner.out : router.outputs;
  const int64_t elements = is_bias ? out : out * (is_inner ? router.inner.in : router.width);
  check.pointer("source", source, size_t(fth::element_bytes(source_type)));
  check.pointer("packed", packed, router.alignment());
  check.disjoint("source", source, elements * fth::element_bytes(source_type), "packed", packed, router.bytes());
  check.on_device({{"packed", packed}});
  if (!check.ok()) return check.status();
  char* at = static_cast<char*>(packed) + depth * router.stride();
  bool done;
  if (is_inner && !is_bias) {
    done = fth::pack_rows(ctx, router.inner, 0, out, 1.f, source_type, source, at);
  } else {
    at += is_inner ? router.inner_bias_offset() : is_bias ? router.last_bias_offset() : router.last_offset();
    done = fth::convert(ctx, source_type, source, elements, 1.f, reinterpret_cast<float*>(at));
  }
  return done ? fth::finish(ctx) : FTH_OUT_OF_MEMORY;
}

fth_status fth_gate(fth_context* ctx, const fth_gate_shape* shape, int64_t count, const fth_row* rows, const float* x,
                    const void* packed, const float* choice_bias, float* logits, float* p, float* gate,
                    int32_t* choice) {
  FTH_ENTER(ctx);
  Check check(ctx);
  if (!fth::check_gate(check, shape)) return check.status();
  const Router router(ctx, *shape);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  if (router.depths == 1) rows = nullptr;
  check.array("rows", rows, any && router.depths > 1);
  check.array("x", x, any);
  check.pointer("packed", packed, router.alignment(), any);
  check.array("choice_bias", choice_bias, false);
  check.array("logits", logits, false);
  check.array("p", p, false);
  check.array("gate", gate, any);
  check.array("choice", choice, any);
  if (!check.ok()) return check.status();
  check.disjoint(
      {{"rows", rows, count * int64_t(sizeof(fth_row))},
       {"x", x, count * shape->hidden_size * 4},
       {"packed", packed, router.bytes()},
       {"choice_bias", choice_bias, router.outputs * 4}},
      {{"logits", logits, count * router.outputs * 4},
       {"p", p, count * router.outputs * 4},
       {"gate", gate, count * 4},
       {"choice", choice, count * 4}});
  check.on_host({{"rows", rows}});
  check.on_device({{"x", x}, {"packed", packed}, {"choice_bias", choice_bias}, {"logits", logits}, {"p", p},
                   {"gate", gate}, {"choice", choice}});
  if (rows != nullptr) check.depths(rows, count, router.depths);
  if (!check.ok() || !any) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("rows", rows, count)})) return status;

  const size_t bytes = fth::gate_scratch(ctx, *shape, count, logits != nullptr);
  char* scratch = ctx->reserve_device(bytes);
  if (scratch == nullptr && bytes > 0) return FTH_OUT_OF_MEMORY;
  fth::run_gate(ctx, *shape, count, rows, x, packed, choice_bias, {logits, p, gate, choice}, scratch);
  return fth::finish(ctx);
}

}  // extern "C"
