#include "norm.h"

namespace fth {

void run_norm(fth_context* ctx, const norm::Args& args, int64_t count) {
  if (FTH_ON_DEVICE(ctx)) return norm::cuda::rows(args, count, ctx->device->queue());
  const auto kernel = for_isa(ctx, norm::scalar::rows, norm::avx2::rows, norm::avx512::rows);
  // A piece of about 16 K elements is worth handing to another thread.
  parallel(ctx, count, 16384 / args.width, [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

Input product_input(fth_context* ctx, const norm::Args& args, bool with_norm, int32_t weight_type, int64_t count,
                    const InputScratch& at, char* scratch) {
  if (!with_norm) return input_of(ctx, args.x, args.width, weight_type, count, at, scratch);
  norm::Args to = args;
  if (reads_bf16(weight_type)) {
    to.y_bf16 = reinterpret_cast<uint16_t*>(scratch + at.x);
    to.stride_bf16 = x_bytes(args.width, FTH_BF16) / 2;
    run_norm(ctx, to, count);
    return {to.y_bf16, to.y_bf16};
  }
  to.y = reinterpret_cast<float*>(scratch + (quantised(weight_type) ? at.normed : at.x));
  run_norm(ctx, to, count);
  return input_of(ctx, to.y, args.width, weight_type, count, at, scratch);
}

}  // namespace fth

extern "C" fth_status fth_norm(fth_context* ctx, const fth_norm_shape* shape, int64_t count, const fth_row* rows,
                               const float* x, const float* gain, const float* bias, float* y) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("shape", shape)) return check.status();
  check.range("shape.kind", shape->kind, FTH_RMS_NORM, FTH_LAYER_NORM);
  check.range("shape.width", shape->width, 1, fth::kMostFeatures);
  check.range("shape.depths", shape->depths, 1, 65536);
  check.that(shape->eps >= 0 && shape->eps < 1e30f, "shape.eps must be a finite number >= 0, got %g",
             double(shape->eps));
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  if (shape->depths == 1) rows = nullptr;
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
  check.on_host({{"rows", rows}});
  check.on_device({{"x", x}, {"gain", gain}, {"bias", bias}, {"y", y}});
  if (rows != nullptr) check.depths(rows, count, shape->depths);
  if (!check.ok() || !any) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("rows", rows, count)})) return status;

  fth::norm::Args args{};
  args.x = x;
  args.rows = rows;
  args.gain = gain;
  args.bias = bias;
  args.y = y;
  args.width = shape->width;
  args.eps = shape->eps;
  args.layer = shape->kind == FTH_LAYER_NORM;
  fth::run_norm(ctx, args, count);
  return fth::finish(ctx);
}
