#include "norm/norm.h"

#include "context.h"

extern "C" fth_status fth_norm(fth_context* ctx, const fth_norm_shape* shape, int64_t count, const fth_row* rows,
                               const float* x, const float* gain, const float* bias, float* y) {
  FTH_ENTER(ctx);
  fth::Check check(ctx, "fth_norm");
  if (!check.array("shape", shape)) return check.status();
  check.range("shape.kind", shape->kind, FTH_RMS_NORM, FTH_LAYER_NORM);
  check.at_least("shape.width", shape->width, 1);
  check.at_least("shape.depths", shape->depths, 1);
  check.that(shape->eps >= 0 && shape->eps < 1e30f, "shape.eps must be a finite number >= 0, got %g", double(shape->eps));
  check.at_least("count", count, 0);
  const bool any = count > 0;
  check.array("rows", rows, any && shape->depths > 1);
  check.array("x", x, any);
  check.array("gain", gain, false);
  check.array("bias", bias, false);
  check.array("y", y, any);
  if (!check.ok()) return check.status();
  const int64_t bytes = count * shape->width * 4, vector_bytes = int64_t(shape->depths) * shape->width * 4;
  if (x != y) check.disjoint("x", x, bytes, "y", y, bytes);
  check.disjoint("gain", gain, vector_bytes, "y", y, bytes);
  check.disjoint("bias", bias, vector_bytes, "y", y, bytes);
  check.disjoint("rows", rows, count * int64_t(sizeof(fth_row)), "y", y, bytes);
  if (rows != nullptr) check.depths(rows, count, shape->depths);
  if (!check.ok()) return check.status();

  const fth::norm::Args args{x,     shape->depths > 1 ? rows : nullptr, gain, bias, nullptr, y, nullptr, shape->width, 0,
                             shape->eps, shape->kind == FTH_LAYER_NORM};
  const auto kernel = fth::for_isa(ctx, fth::norm::scalar::rows, fth::norm::avx2::rows, fth::norm::avx512::rows);
  // A piece of about 16 K elements is worth handing to another thread.
  fth::parallel(ctx, count, 16384 / shape->width, [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
  return FTH_OK;
}
