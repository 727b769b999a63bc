// Top k against a full sort, on values that try every way through the search, and the refusals.
#include "arguments.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "top_k/top_k.h"

using test::Guarded;

// Positions first .. last - 1, the largest value first: lowest position of equal ones, NaN at the end.
static std::vector<int32_t> sorted(const float* values, int32_t first, int32_t last) {
  std::vector<int32_t> order(size_t(last - first));
  std::iota(order.begin(), order.end(), first);
  std::stable_sort(order.begin(), order.end(), [values](int32_t a, int32_t b) {
    return values[a] > values[b] || (isnan(values[b]) && !isnan(values[a]));
  });
  return order;
}

constexpr int32_t kUntouched = -77;

static void compare(test::Context& ctx, const float* values, int64_t count, const std::vector<int32_t>& begin,
                    const std::vector<int32_t>& k, const char* what) {
  const int64_t segments = int64_t(k.size());
  Guarded<int32_t> begins(segments + 1), ks(segments), index(count), want(count);
  begins.copy_from(begin.data());
  ks.copy_from(k.data());
  for (int64_t i = 0; i < count; i++) index[i] = want[i] = kUntouched;
  for (int64_t s = 0; s < segments; s++) {
    std::vector<int32_t> order = sorted(values, begin[s], begin[s + 1]);
    std::sort(order.begin(), order.begin() + k[s]);
    std::copy(order.begin(), order.begin() + k[s], want + begin[s]);
  }
  EXPECT_OK(ctx, fth_top_k(ctx, count, values, segments, begins, ks, index));
  EXPECT(memcmp(index, want, sizeof(int32_t) * size_t(count)) == 0, "%s, %d values, k %d", what, int(count), k[0]);
}

enum { kRandom, kFew, kEqual, kRising, kFalling, kPeriodic, kOdd, kSpread, kKinds };
static const char* const kNames[] = {"random", "few", "equal", "rising", "falling", "periodic", "odd", "spread"};

static void fill(int kind, float* values, int64_t n, uint64_t seed) {
  test::Random random(seed);
  const float odd[] = {NAN, -NAN, INFINITY, -INFINITY, 0.f, -0.f, 1e-45f, -1e-45f, 3e38f, -3e38f, 1.f};
  for (int64_t i = 0; i < n; i++) {
    switch (kind) {
      case kRandom: values[i] = random.uniform(); break;
      case kFew: values[i] = float(random.below(3)) - 1; break;
      case kEqual: values[i] = -2.5f; break;
      case kRising: values[i] = float(i) - float(n / 2); break;
      case kFalling: values[i] = float(n / 2) - float(i); break;
      // Where a sample of 16 looks there is always the same value.
      case kPeriodic: values[i] = n >= 16 && i % (n / 16) == 0 ? 9.f : random.uniform(); break;
      case kOdd: values[i] = odd[random.below(11)]; break;
      default: values[i] = ldexpf(random.uniform(), int(random.below(250)) - 125); break;
    }
  }
}

TEST(small_segments_of_every_k) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa);
    for (int kind = 0; kind < kKinds; kind++)
      for (int32_t n = 1; n <= 70; n += n < 18 ? 1 : 13)
        for (bool head : {false, true}) {
          Guarded<float> values(n, head);
          fill(kind, values, n, uint64_t(n));
          for (int32_t k = 0; k <= n; k++) compare(ctx, values, n, {0, n}, {k}, kNames[kind]);
        }
  }
}

TEST(large_segments) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa);
    for (int kind = 0; kind < kKinds; kind++)
      for (int32_t n : {255, 1024, 4099, 100003}) {
        Guarded<float> values(n);
        fill(kind, values, n, uint64_t(n + kind));
        for (int32_t k : {1, 2, 17, n / 3, n / 2, n - 20, n - 1, n})
          if (!test::kCuda || n < 10000 || k == n / 3)  // emulation is slow
            compare(ctx, values, n, {0, n}, {k}, kNames[kind]);
      }
  }
}

TEST(a_million_values) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa);
    const int32_t n = 1000003;
    Guarded<float> values(n);
    for (int kind : {kRandom, kFew, kSpread}) {
      fill(kind, values, n, 5);
      compare(ctx, values, n, {0, n}, {n / 3}, kNames[kind]);
    }
  }
}

TEST(many_segments_on_any_number_of_workers) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int workers : {1, 4}) {
      if (test::kCuda && workers > 1) continue;  // has none
      test::Context ctx(isa, workers);
      test::Random random(11);
      // A gap in front, empty segments, a gap behind.
      std::vector<int32_t> begin{3}, k;
      for (int s = 0; s < 200; s++) {
        const int32_t size = s % 7 == 0 ? 0 : int32_t(random.below(s % 5 == 0 ? 3000 : 40));
        begin.push_back(begin.back() + size);
        k.push_back(int32_t(random.below(size + 1)));
      }
      const int64_t count = begin.back() + 5;
      Guarded<float> values(count);
      fill(kFew, values, count, 1);
      fill(kRandom, values, count / 2, 2);
      compare(ctx, values, count, begin, k, "segments");
    }
}

// The scratch of a segment ends where the next one's begins.
TEST(kernels_stay_inside_their_scratch) {
  if (test::kCuda) return;  // none there
  fth::top_k::Segments* const kernels[] = {fth::top_k::scalar::segments, fth::top_k::avx2::segments,
                                           fth::top_k::avx512::segments};
  for (int32_t isa = 0; isa <= test::last_isa(); isa++)
    for (int32_t n : {17, 31, 33, 100, 1001})
      for (bool head : {false, true}) {
        Guarded<float> values(n, head);
        Guarded<int32_t> keys(n, head), index(n, head), begin(2), k(1);
        fill(kRandom, values, n, 3);
        begin[1] = n;
        for (k[0] = 1; k[0] <= n; k[0] += 1 + n / 40) kernels[isa]({values, begin, k, keys, index}, 0, 1);
      }
}

TEST(keeps_to_its_arguments) {
  for (int32_t size : {1, 15, 40, 300}) {
    test::Arguments a;
    int64_t count = size + 9, segments = 3;
    const auto values = a.input<float>("values", count);
    const auto begin = a.input<int32_t>("begin", segments + 1);
    const auto k = a.input<int32_t>("k", segments);
    const auto index = a.output<int32_t>("index", count);
    fill(kFew, values, count, uint64_t(size));
    const int32_t begins[] = {2, 2 + size, 2 + size, 8 + size}, ks[] = {(size + 1) / 2, 0, 5};
    memcpy(begin.get(), begins, sizeof begins);
    memcpy(k.get(), ks, sizeof ks);
    a.call = [&](fth_context* ctx) { return fth_top_k(ctx, count, values, segments, begin, k, index); };
    a.guards();
    if (size != 15) continue;
    a.refusals();
    a.counts(count);
    a.range("segments", segments, 0, 1 << 30);
    a.range("begin[0]", begin[0], 0, count);
    a.range("begin[1]", begin[1], 2, count);
    a.range("begin[3]", begin[3], 17, count);
    a.range("k[0]", k[0], 0, 15);
    a.range("k[1]", k[1], 0, 0);
    EXPECT_OK(a.ctx, fth_top_k(a.ctx, count, values, 0, nullptr, nullptr, index));
    EXPECT_OK(a.ctx, fth_top_k(a.ctx, 0, nullptr, 0, nullptr, nullptr, nullptr));
    for (int32_t i = 0; i < 4; i++) begin[i] = 0;
    for (int32_t i = 0; i < 3; i++) k[i] = 0;
    EXPECT_OK(a.ctx, fth_top_k(a.ctx, 0, nullptr, segments, begin, k, nullptr));
  }
}
