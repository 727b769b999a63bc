#include "compact.h"

#include <string.h>

namespace fth {

void run_gather(fth_context* ctx, int64_t width, int64_t count, const int32_t* live, const int32_t* index,
                const float* x, float* y) {
  if (FTH_ON_DEVICE(ctx)) return compact::cuda::gather(index, x, y, width, count, live, ctx->device->queue());
  parallel(ctx, count, 16384 / width, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) memcpy(y + i * width, x + int64_t(index[i]) * width, size_t(width) * 4);
  });
}

void run_scatter(fth_context* ctx, int64_t width, int64_t count, const int32_t* live, const int32_t* index,
                 const float* y, float* x) {
  if (FTH_ON_DEVICE(ctx)) return compact::cuda::scatter(index, y, x, width, count, live, ctx->device->queue());
  parallel(ctx, count, 16384 / width, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) memcpy(x + int64_t(index[i]) * width, y + i * width, size_t(width) * 4);
  });
}

void run_scatter_add(fth_context* ctx, int64_t count, const int32_t* live, const compact::Args& args) {
  if (FTH_ON_DEVICE(ctx)) return compact::cuda::scatter_add(args, count, live, ctx->device->queue());
  const auto kernel =
      for_isa(ctx, compact::scalar::scatter_add, compact::avx2::scatter_add, compact::avx512::scatter_add);
  parallel(ctx, count, 16384 / args.width, [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

}  // namespace fth

namespace {

bool ascending(const int32_t* index, int64_t count) {
  for (int64_t i = 1; i < count; i++)
    if (index[i] <= index[i - 1]) return false;
  return true;
}

// No index occurs twice; `seen` has a bit per target, all indices are in range.
bool check_distinct(fth::Check& check, const int32_t* index, int64_t count, int64_t target_count, uint64_t* seen) {
  memset(seen, 0, size_t(fth::ceil_div(target_count, 64)) * sizeof *seen);
  for (int64_t i = 0; i < count; i++) {
    uint64_t& word = seen[index[i] / 64];
    const uint64_t bit = uint64_t(1) << index[i] % 64;
    if (!check.that((word & bit) == 0, "index[%lld] must differ from all before it, got %d again", (long long)i,
                    index[i]))
      return false;
    word |= bit;
  }
  return true;
}

// What both scatters ask of their arguments; every target row is written at most once. True with the index staged if
// there is something to do, else the call ends with the status.
bool check_scatter(fth_context* ctx, fth::Check& check, int32_t width, int64_t target_count, int64_t count,
                   const int32_t*& index, const float* gate, const float* y, const float* x, fth_status* status) {
  check.range("width", width, 1, fth::kMostFeatures);
  check.range("target_count", target_count, 0, fth::kMostRows);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  check.array("index", index, any);
  check.array("gate", gate, false);
  check.array("y", y, any);
  check.array("x", x, any);
  if (check.ok()) {
    const int64_t row_bytes = int64_t(width) * 4, x_bytes = target_count * row_bytes;
    check.disjoint("index", index, count * 4, "x", x, x_bytes);
    check.disjoint("gate", gate, count * 4, "x", x, x_bytes);
    check.disjoint("y", y, count * row_bytes, "x", x, x_bytes);
    check.on_host({{"index", index}});
    check.on_device({{"gate", gate}, {"y", y}, {"x", x}});
    check.indices("index", index, count, target_count);
  }
  if (check.ok() && !ascending(index, count)) {
    fth::Layout layout;
    layout.add<uint64_t>(fth::ceil_div(target_count, 64));
    char* seen = ctx->reserve(layout.bytes());
    if (seen == nullptr) {
      *status = FTH_OUT_OF_MEMORY;
      return false;
    }
    check_distinct(check, index, count, target_count, reinterpret_cast<uint64_t*>(seen));
  }
  *status = check.status();
  if (check.ok() && any) *status = fth::stage(ctx, {fth::staged("index", index, count)});
  return *status == FTH_OK && any;
}

}  // namespace

extern "C" {

fth_status fth_gather(fth_context* ctx, int32_t width, int64_t source_count, int64_t count, const int32_t* index,
                      const float* x, float* y) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  check.range("width", width, 1, fth::kMostFeatures);
  check.range("source_count", source_count, 0, fth::kMostRows);
  check.range("count", count, 0, fth::kMostRows);
  const bool any = count > 0;
  check.array("index", index, any);
  check.array("x", x, any);
  check.array("y", y, any);
  if (!check.ok()) return check.status();
  const int64_t row_bytes = int64_t(width) * 4;
  check.disjoint("index", index, count * 4, "y", y, count * row_bytes);
  check.disjoint("x", x, source_count * row_bytes, "y", y, count * row_bytes);
  check.on_host({{"index", index}});
  check.on_device({{"x", x}, {"y", y}});
  check.indices("index", index, count, source_count);
  if (!check.ok() || !any) return check.status();
  if (const fth_status status = fth::stage(ctx, {fth::staged("index", index, count)})) return status;
  fth::run_gather(ctx, width, count, nullptr, index, x, y);
  return fth::finish(ctx);
}

fth_status fth_scatter(fth_context* ctx, int32_t width, int64_t target_count, int64_t count, const int32_t* index,
                       const float* y, float* x) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  fth_status status;
  if (!check_scatter(ctx, check, width, target_count, count, index, nullptr, y, x, &status)) return status;

  fth::run_scatter(ctx, width, count, nullptr, index, y, x);
  return fth::finish(ctx);
}

fth_status fth_scatter_add(fth_context* ctx, int32_t width, int64_t target_count, int64_t count, const int32_t* index,
                           const float* gate, const float* y, float* x) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  fth_status status;
  if (!check_scatter(ctx, check, width, target_count, count, index, gate, y, x, &status)) return status;

  fth::run_scatter_add(ctx, count, nullptr, {index, gate, y, x, width});
  return fth::finish(ctx);
}

}  // extern "C"
