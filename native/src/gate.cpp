#include "gate/gate.h"

#include "context.h"
#include "linear.h"

namespace {

using fth::Check;

// One depth's router. LINEAR: W. MLP: W1 as packed panels, then W2; both are [outputs, width] at the end.
struct Router {
  fth::WeightShape first;  // W1; only with `mlp`
  int64_t width, outputs;
  int32_t depths;
  bool mlp;

  explicit Router(const fth_gate_shape& s)
      : first{s.hidden_size, s.inner_size, FTH_F32, false},
        width(s.router == FTH_ROUTER_MLP ? s.inner_size : s.hidden_size),
        outputs(s.outputs),
        depths(s.depths),
        mlp(s.router == FTH_ROUTER_MLP) {}
  int64_t last_offset() const { return mlp ? first.bytes() : 0; }
  int64_t stride() const { return fth::round_up(last_offset() + outputs * width * 4, 64); }
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
  return check.ok();
}

// inner = gelu(W1 x / temperature) of every row, by its depth.
void run_first(fth_context* ctx, const Router& router, float temperature, int64_t count, const fth_row* rows,
               const float* x, const char* packed, int32_t* order, int32_t* begin, float* scaled, float* inner) {
  if (temperature != 1) {
    fth::parallel(ctx, count * router.first.in, 16384, [&](int64_t from, int64_t to, int) {
      for (int64_t k = from; k < to; k++) scaled[k] = x[k] / temperature;
    });
    x = scaled;
  }
  fth::DepthGroups groups{};
  if (rows != nullptr) groups = fth::group_by_depth(rows, nullptr, count, router.depths, order, begin);
  constexpr int kTogether = 8;
  fth::LinearCall calls[kTogether];
  int ready = 0;
  for (int32_t d = 0; d < router.depths; d++) {
    fth::linear::Args args{};
    args.weight = packed + d * router.stride();
    args.k = router.first.in;
    args.n = router.first.out;
    args.activation = FTH_GELU;
    args.x = x;
    args.x_stride = router.first.in;
    args.rows = rows == nullptr ? nullptr : groups.order + groups.begin[d];
    args.count = rows == nullptr ? count : groups.begin[d + 1] - groups.begin[d];
    args.y = inner;
    args.y_stride = router.first.out;
    if (args.count > 0) calls[ready++] = {args, FTH_F32, nullptr, {}, nullptr, nullptr, nullptr};
    if (ready == kTogether || d + 1 == router.depths) {
      fth::run_linears(ctx, calls, ready);
      ready = 0;
    }
  }
}

}  // namespace

extern "C" {

fth_status fth_gate_bytes(fth_context* ctx, const fth_gate_shape* shape, int64_t* bytes) {
  FTH_ENTER(ctx);
  Check check(ctx, "fth_gate_bytes");
  if (!check_shape(check, shape) || !check.array("bytes", bytes)) return check.status();
  *bytes = Router(*shape).bytes();
  return FTH_OK;
}

fth_status fth_gate_pack(fth_context* ctx, const fth_gate_shape* shape, int32_t depth, int32_t part,
                         int32_t source_type, const void* source, void* packed) {
  FTH_ENTER(ctx);
  Check check(ctx, "fth_gate_pack");
  if (!check_shape(check, shape)) return check.status();
  const Router router(*shape);
  check.range("depth", depth, 0, router.depths - 1);
  check.range("part", part, 0, router.mlp ? 1 : 0);
  check.range("source_type", source_type, FTH_F32, FTH_F16);
  if (!check.ok()) return check.status();
  const bool first = router.mlp && part == 0;
  const int64_t elements = first ? router.first.in * router.first.out : router.outputs * router.width;
  check.pointer("source", source, size_t(fth::element_bytes(source_type)));
  check.pointer("packed", packed, 4);
  check.disjoint("source", source, elements * fth::element_bytes(source_type), "packed", packed, router.bytes());
  if (!check.ok()) return check.status();
  char* at = static_cast<char*>(packed) + depth * router.stride();
  if (first) fth::pack_rows(ctx, router.first, 0, router.first.out, 1.f, source_type, source, at);
  else fth::convert(source_type, source, elements, 1.f, reinterpret_cast<float*>(at + router.last_offset()));
  return FTH_OK;
}

fth_status fth_gate(fth_context* ctx, const fth_gate_shape* shape, int64_t count, const fth_row* rows, const float* x,
                    const void* packed, const float* bias, float* logits, float* gate, int32_t* choice) {
  FTH_ENTER(ctx);
  Check check(ctx, "fth_gate");
  if (!check_shape(check, shape)) return check.status();
  const Router router(*shape);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  check.array("rows", rows, any && router.depths > 1);
  check.array("x", x, any);
  check.pointer("packed", packed, 4, any);
  check.array("bias", bias, false);
  check.array("logits", logits, false);
  check.array("gate", gate, any);
  check.array("choice", choice, any);
  if (!check.ok()) return check.status();
  check.disjoint(
      {{"rows", rows, count * int64_t(sizeof(fth_row))},
       {"x", x, count * shape->hidden_size * 4},
       {"packed", packed, router.bytes()},
       {"bias", bias, router.outputs * 4}},
      {{"logits", logits, count * router.outputs * 4}, {"gate", gate, count * 4}, {"choice", choice, count * 4}});
  if (rows != nullptr) check.depths(rows, count, router.depths);
  if (!check.ok()) return check.status();
  if (router.depths == 1) rows = nullptr;

  // Long inputs go in slabs, so that scratch does not grow with them.
  constexpr int64_t kSlab = 1024;
  const int64_t slab = count < kSlab ? count : kSlab;
  fth::Layout layout;
  const size_t logits_at = layout.add<float>(logits == nullptr ? slab * router.outputs : 0);
  const size_t scaled_at = layout.add<float>(router.mlp && shape->temperature != 1 ? slab * shape->hidden_size : 0);
  const size_t inner_at = layout.add<float>(router.mlp ? slab * router.width : 0);
  const size_t order_at = layout.add<int32_t>(router.mlp ? slab : 0);
  const size_t begin_at = layout.add<int32_t>(router.mlp ? router.depths + 1 : 0);
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr && layout.bytes() > 0) return FTH_OUT_OF_MEMORY;
  float* inner = reinterpret_cast<float*>(scratch + inner_at);

  const auto kernel =
      fth::for_isa(ctx, fth::gate::scalar::logits, fth::gate::avx2::logits, fth::gate::avx512::logits);
  for (int64_t first = 0; first < count; first += slab) {
    const int64_t n = count - first < slab ? count - first : slab;
    const fth_row* slab_rows = rows == nullptr ? nullptr : rows + first;
    const float* slab_x = x + first * shape->hidden_size;
    if (router.mlp)
      run_first(ctx, router, shape->temperature, n, slab_rows, slab_x, static_cast<const char*>(packed),
                reinterpret_cast<int32_t*>(scratch + order_at), reinterpret_cast<int32_t*>(scratch + begin_at),
                reinterpret_cast<float*>(scratch + scaled_at), inner);
    float* z = logits == nullptr ? reinterpret_cast<float*>(scratch + logits_at) : logits + first * router.outputs;
    const char* last = static_cast<const char*>(packed) + router.last_offset();
    const fth::gate::Logits product{router.mlp ? inner : slab_x, slab_rows, reinterpret_cast<const float*>(last),
                                    router.stride() / 4, router.width, router.outputs,
                                    router.mlp ? 1.f : shape->temperature, z};
    const fth::gate::Decision decision{z, bias, router.outputs, shape->function, shape->alpha, shape->threshold,
                                       gate + first, choice + first};
    fth::parallel(ctx, n, 32768 / (router.width * router.outputs), [&](int64_t begin, int64_t end, int) {
      kernel(product, begin, end);
      fth::gate::decide(decision, begin, end);
    });
  }
  return FTH_OK;
}

}  // extern "C"
