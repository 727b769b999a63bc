#include "embed/embed.h"

#include "context.h"
#include "linear.h"

extern "C" fth_status fth_embed(fth_context* ctx, const fth_embed_shape* shape, int64_t count, const int32_t* id,
                                const void* table, float* out) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("shape", shape)) return check.status();
  check.range("shape.vocab_size", shape->vocab_size, 1, fth::kMostFeatures);
  check.range("shape.hidden_size", shape->hidden_size, 1, fth::kMostFeatures);
  check.range("shape.packed", shape->packed, 0, 1);
  if (!check.ok()) return check.status();
  if (shape->packed) fth::check_weight_type(check, shape->type, "shape.type");
  else check.range("shape.type", shape->type, FTH_F32, FTH_BF16);
  check.finite("shape.scale", shape->scale);
  check.range("shape.reserved", shape->reserved, 0, 0);
  check.range("count", count, 0, fth::kMostRows);
  if (!check.ok()) return check.status();
  const bool any = count > 0;
  const int64_t width = shape->hidden_size, element = fth::element_bytes(shape->type);  // without packing
  check.array("id", id, any);
  const fth::WeightShape weight{width, shape->vocab_size, shape->type, false, FTH_ON_DEVICE(ctx)};
  check.pointer("table", table, shape->packed ? weight.alignment() : fth::alignment(shape->type), any);
  check.array("out", out, any);
  const int64_t table_bytes = shape->packed ? weight.bytes() : shape->vocab_size * width * element;
  check.disjoint("id", id, count * 4, "out", out, count * width * 4);
  check.disjoint("table", table, table_bytes, "out", out, count * width * 4);
  check.on_host({{"id", id}});
  check.on_device({{"table", table}, {"out", out}});
  check.indices("id", id, count, shape->vocab_size);
  if (!check.ok() || !any) return check.status();

  using namespace fth::embed;
  if (FTH_ON_DEVICE(ctx)) {
    if (const fth_status status = fth::stage(ctx, {fth::staged("id", id, count)})) return status;
    namespace tiles = fth::linear::tiles;
    const Args args{table, shape->type, shape->packed != 0, tiles::strip_bytes(shape->type, width),
                    tiles::steps(shape->type, width), width, shape->scale, id, out};
    cuda::rows(args, count, ctx->device->stream());
    return fth::finish(ctx);
  }
  const auto f32 = fth::for_isa(ctx, scalar::f32, avx2::f32, avx512::f32);
  const auto bf16 = fth::for_isa(ctx, scalar::bf16, avx2::bf16, avx512::bf16);
  fth::parallel(ctx, count, 8192 / width, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      float* y = out + i * width;
      if (shape->packed) {
        fth::packed_row(weight, table, id[i], y);
        if (shape->scale != 1) f32(y, shape->scale, width, y);
      } else if (shape->type == FTH_F32) {
        f32(static_cast<const float*>(table) + id[i] * width, shape->scale, width, y);
      } else {
        bf16(static_cast<const uint16_t*>(table) + id[i] * width, shape->scale, width, y);
      }
    }
  });
  return FTH_OK;
}
