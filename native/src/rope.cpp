#include "rope.h"

namespace fth {

void rope_table(fth_context* ctx, int64_t count, const fth_row* rows, const float* frequency, int64_t rotary_dim,
                float* table) {
  const int64_t pairs = rotary_dim / 2;
  if (FTH_ON_DEVICE(ctx)) return rope::cuda::angles({rows, frequency, pairs, table}, count, ctx->device->queue());
  // A pair takes about 20 ns; 20 us are worth handing to another thread.
  parallel(ctx, count, 1024 / (pairs + 1), [&](int64_t begin, int64_t end, int) {
    rope::angles(rows, frequency, pairs, table, begin, end);
  });
}

void run_rope(fth_context* ctx, int64_t count, const rope::Args& args) {
  if (FTH_ON_DEVICE(ctx)) return rope::cuda::rows(args, count, ctx->device->queue());
  const auto kernel = rope_kernel(ctx);
  parallel(ctx, count, 16384 / (args.heads * args.head_dim),
           [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

}  // namespace fth

extern "C" fth_status fth_rope(fth_context* ctx, const fth_rope_shape* shape, int64_t count, const fth_row* rows,
                               const float* frequency, float* x) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("shape", shape)) return check.status();
  check.range("shape.style", shape->style, FTH_ROPE_NONE, FTH_ROPE_INTERLEAVED);
  if (check.range("shape.head_dim", shape->head_dim, 1, fth::kMostFeatures))
    check.range("shape.heads", shape->heads, 1, fth::kMostFeatures / shape->head_dim);
  check.range("shape.rotary_dim", shape->rotary_dim, 0, shape->head_dim);
  check.that(shape->rotary_dim % 2 == 0, "shape.rotary_dim must be even, got %d", shape->rotary_dim);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0, turns = shape->style != FTH_ROPE_NONE && shape->rotary_dim > 0;
  check.array("rows", rows, any);
  check.array("frequency", frequency, any && turns);
  check.array("x", x, any);
  if (!check.ok()) return check.status();
  const int64_t width = int64_t(shape->heads) * shape->head_dim;
  check.disjoint("rows", rows, count * int64_t(sizeof(fth_row)), "x", x, count * width * 4);
  check.disjoint("frequency", frequency, shape->rotary_dim / 2 * 4, "x", x, count * width * 4);
  check.on_host({{"rows", rows}});
  check.on_device({{"frequency", turns ? frequency : nullptr}, {"x", x}});
  if (!check.ok() || !any || !turns) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("rows", rows, count)})) return status;

  fth::Layout layout;
  const size_t table_at = layout.add<float>(fth::rope_table_floats(shape->rotary_dim, count));
  char* scratch = ctx->reserve_device(layout.bytes());
  if (scratch == nullptr) return FTH_OUT_OF_MEMORY;
  float* table = reinterpret_cast<float*>(scratch + table_at);
  fth::rope_table(ctx, count, rows, frequency, shape->rotary_dim, table);
  fth::run_rope(ctx, count, {table, x, width, shape->heads, shape->head_dim, shape->rotary_dim / 2,
                             shape->style == FTH_ROPE_INTERLEAVED});
  return fth::finish(ctx);
}
