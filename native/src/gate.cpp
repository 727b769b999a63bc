#include "gate/gate.h"

#include "context.h"
#include "linear.h"

namespace {

using fth::Check;

// One depth's router: an MLP's inner layer, W1 as packed panels and b1, then the last layer, W [outputs, width] and b.
struct Router {
  fth::WeightShape inner;  // W1; only with `mlp`
  int64_t width, outputs;
  int32_t depths;
  bool mlp, bias;

  Router(const fth_context* ctx, const fth_gate_shape& s)
      : inner{s.hidden_size, s.inner_size, FTH_F32, false, FTH_ON_DEVICE(ctx)},
        width(s.router == FTH_ROUTER_MLP ? s.inner_size : s.hidden_size),
        outputs(s.outputs),
        depths(s.depths),
        mlp(s.router == FTH_ROUTER_MLP),
        bias(s.bias != 0) {}
  int64_t inner_bias_offset() const { return mlp ? inner.bytes() : 0; }
  int64_t last_offset() const { return inner_bias_offset() + (mlp && bias ? inner.out * 4 : 0); }
  int64_t last_bias_offset() const { return last_offset() + outputs * width * 4; }
  int64_t stride() const { return fth::round_up(last_bias_offset() + (bias ? outputs * 4 : 0), 64); }
  int64_t bytes() const { return stride() * depths; }
};

bool check_shape(Check& check, const fth_gate_shape* s) {
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

}  // namespace

extern "C" {

fth_status fth_gate_bytes(fth_context* ctx, const fth_gate_shape* shape, int64_t* bytes) {
  FTH_ENTER_CPU(ctx);
  Check check(ctx);
  if (!check_shape(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = Router(ctx, *shape).bytes();
  return FTH_OK;
}

fth_status fth_gate_pack(fth_context* ctx, const fth_gate_shape* shape, int32_t depth, int32_t part,
                         int32_t source_type, const void* source, void* packed) {
  FTH_ENTER_CPU(ctx);
  Check check(ctx);
  if (!check_shape(check, shape)) return check.status();
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
  check.pointer("packed", packed, 4);
  check.disjoint("source", source, elements * fth::element_bytes(source_type), "packed", packed, router.bytes());
  if (!check.ok()) return check.status();
  char* at = static_cast<char*>(packed) + depth * router.stride();
  if (is_inner && !is_bias) {
    fth::pack_rows(ctx, router.inner, 0, out, 1.f, source_type, source, at);
  } else {
    at += is_inner ? router.inner_bias_offset() : is_bias ? router.last_bias_offset() : router.last_offset();
    fth::convert(source_type, source, elements, 1.f, reinterpret_cast<float*>(at));
  }
  return FTH_OK;
}

fth_status fth_gate(fth_context* ctx, const fth_gate_shape* shape, int64_t count, const fth_row* rows, const float* x,
                    const void* packed, const float* choice_bias, float* logits, float* p, float* gate,
                    int32_t* choice) {
  FTH_ENTER_CPU(ctx);
  Check check(ctx);
  if (!check_shape(check, shape)) return check.status();
  const Router router(ctx, *shape);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  if (router.depths == 1) rows = nullptr;
  check.array("rows", rows, any && router.depths > 1);
  check.array("x", x, any);
  check.pointer("packed", packed, 4, any);
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
  if (rows != nullptr) check.depths(rows, count, router.depths);
  if (!check.ok()) return check.status();

  // Long inputs go in slabs, so that scratch does not grow with them and stays about 16 MiB.
  constexpr int64_t kSlabFloats = 4 << 20, kLeast = 32, kMost = 1024;
  int64_t slab = kSlabFloats / (router.outputs + (router.mlp ? router.inner.in + router.width : 0));
  slab = slab < kLeast ? kLeast : slab > kMost ? kMost : slab;
  if (slab > count) slab = count;
  fth::Layout layout;
  const size_t logits_at = layout.add<float>(logits == nullptr ? slab * router.outputs : 0);
  const size_t scaled_at = layout.add<float>(router.mlp && shape->temperature != 1 ? slab * shape->hidden_size : 0);
  const size_t inner_at = layout.add<float>(router.mlp ? slab * router.width : 0);
  const size_t order_at = layout.add<int32_t>(router.mlp ? slab : 0);
  const size_t begin_at = layout.add<int32_t>(router.mlp ? router.depths + 1 : 0);
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr && layout.bytes() > 0) return FTH_OUT_OF_MEMORY;
  float* inner = reinterpret_cast<float*>(scratch + inner_at);
  const char* weights = static_cast<const char*>(packed);

  const auto kernel =
      fth::for_isa(ctx, fth::gate::scalar::logits, fth::gate::avx2::logits, fth::gate::avx512::logits);
  for (int64_t first = 0; first < count; first += slab) {
    const int64_t n = count - first < slab ? count - first : slab;
    const fth_row* slab_rows = rows == nullptr ? nullptr : rows + first;
    const float* slab_x = x + first * shape->hidden_size;
    if (router.mlp)
      run_inner(ctx, router, *shape, n, slab_rows, slab_x, weights, reinterpret_cast<int32_t*>(scratch + order_at),
                reinterpret_cast<int32_t*>(scratch + begin_at), reinterpret_cast<float*>(scratch + scaled_at), inner);
    const int64_t out = first * router.outputs;
    float* z = logits == nullptr ? reinterpret_cast<float*>(scratch + logits_at) : logits + out;
    const fth::gate::Logits product{
        .x = router.mlp ? inner : slab_x,
        .rows = slab_rows,
        .w = reinterpret_cast<const float*>(weights + router.last_offset()),
        .b = router.bias ? reinterpret_cast<const float*>(weights + router.last_bias_offset()) : nullptr,
        .stride = router.stride() / 4,
        .width = router.width,
        .outputs = router.outputs,
        .temperature = router.mlp ? 1.f : shape->temperature,
        .logits = z};
    const fth::gate::Decision decision{.logits = z,
                                       .bias = choice_bias,
                                       .outputs = router.outputs,
                                       .function = shape->function,
                                       .alpha = shape->alpha,
                                       .threshold = shape->threshold,
                                       .p = p == nullptr ? nullptr : p + out,
                                       .gate = gate + first,
                                       .choice = choice + first};
    fth::parallel(ctx, n, 65536 / (router.width * router.outputs), [&](int64_t begin, int64_t end, int) {
      kernel(product, begin, end);
      fth::gate::decide(decision, begin, end);
    });
  }
  return FTH_OK;
}

}  // extern "C"
