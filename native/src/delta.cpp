#include "delta/delta.h"

#include "context.h"

extern "C" fth_status fth_state_delta(fth_context* ctx, int32_t width, int64_t count, const float* before2,
                                      const float* before, const float* now, fth_delta_stats* out) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  check.range("width", width, 1, fth::kMostFeatures);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  check.array("before2", before2, false);
  check.array("before", before, any);
  check.array("now", now, any);
  check.array("out", out, any);
  if (!check.ok()) return check.status();
  const int64_t bytes = count * width * 4;
  check.disjoint({{"before2", before2, bytes}, {"before", before, bytes}, {"now", now, bytes}},
                 {{"out", out, count * int64_t(sizeof *out)}});
  check.on_device({{"before2", before2}, {"before", before}, {"now", now}, {"out", out}});
  if (!check.ok() || !any) return check.status();

  const fth::delta::Args args{before2, before, now, width, out};
  if (FTH_ON_DEVICE(ctx)) {
    const int64_t parts = fth::delta::cuda::parts(width);
    char* partial = parts == 1 ? nullptr : ctx->reserve_device(size_t(count * parts) * sizeof *out);
    if (partial == nullptr && parts > 1) return FTH_OUT_OF_MEMORY;
    fth::delta::cuda::rows(args, count, reinterpret_cast<fth_delta_stats*>(partial), ctx->device->stream());
    return fth::finish(ctx);
  }
  const auto kernel = fth::for_isa(ctx, fth::delta::scalar::rows, fth::delta::avx2::rows, fth::delta::avx512::rows);
  fth::parallel(ctx, count, 16384 / width, [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
  return FTH_OK;
}
