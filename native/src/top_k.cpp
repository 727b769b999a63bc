#include "top_k/top_k.h"

#include <algorithm>

#include "context.h"

namespace {

// Segments follow one another inside 0 .. count, and none is to give more than it has.
bool check_segments(fth::Check& check, int64_t count, int64_t segments, const int32_t* begin, const int32_t* k) {
  int32_t before = 0;
  for (int64_t s = 0; s <= segments; s++) {
    if (!check.that(begin[s] >= before && begin[s] <= count, "begin[%lld] must be in %d..%lld, got %d", (long long)s,
                    before, (long long)count, begin[s]))
      return false;
    before = begin[s];
  }
  for (int64_t s = 0; s < segments; s++) {
    const int32_t size = begin[s + 1] - begin[s];
    if (!check.that(k[s] >= 0 && k[s] <= size, "k[%lld] must be in 0..%d, got %d", (long long)s, size, k[s]))
      return false;
  }
  return true;
}

}  // namespace

extern "C" fth_status fth_top_k(fth_context* ctx, int64_t count, const float* values, int64_t segments,
                                const int32_t* begin, const int32_t* k, int32_t* index) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  check.range("count", count, 0, fth::kMostRows);
  check.range("segments", segments, 0, fth::kMostRows);
  check.array("values", values, count > 0);
  check.array("begin", begin, segments > 0);
  check.array("k", k, segments > 0);
  check.array("index", index, count > 0);
  if (!check.ok() || segments == 0) return check.status();
  check.disjoint({{"values", values, count * 4}, {"begin", begin, (segments + 1) * 4}, {"k", k, segments * 4}},
                 {{"index", index, count * 4}});
  check.on_host({{"begin", begin}, {"k", k}});
  check.on_device({{"values", values}, {"index", index}});
  if (!check.ok() || !check_segments(check, count, segments, begin, k)) return check.status();

  if (FTH_ON_DEVICE(ctx)) {
    int32_t longest = 0;
    for (int64_t s = 0; s < segments; s++) longest = std::max(longest, begin[s + 1] - begin[s]);
    if (const fth_status status =
            fth::stage(ctx, {fth::staged("begin", begin, segments + 1), fth::staged("k", k, segments)}))
      return status;
    fth::top_k::cuda::segments({values, begin, k, nullptr, index}, segments, longest, ctx->device->stream());
    return fth::finish(ctx);
  }
  fth::Layout layout;
  layout.add<int32_t>(count);
  char* scratch = ctx->reserve(layout.bytes());
  if (scratch == nullptr && layout.bytes() > 0) return FTH_OUT_OF_MEMORY;
  const fth::top_k::Args args{values, begin, k, reinterpret_cast<int32_t*>(scratch), index};
  const auto kernel =
      fth::for_isa(ctx, fth::top_k::scalar::segments, fth::top_k::avx2::segments, fth::top_k::avx512::segments);
  fth::parallel(ctx, segments, 16384 * segments / (count + 1),
                [&](int64_t from, int64_t to, int) { kernel(args, from, to); });
  return FTH_OK;
}
