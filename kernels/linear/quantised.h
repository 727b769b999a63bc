// Products with quantised weights, for the vector kernels. A template over
//   I   integer vectors of a target: see avx2.h, avx2vnni.cpp, avx512vnni.cpp
//   Q   a format: I8, Q8, Q4 below
#pragma once
#include "panels.h"

namespace fth::linear {
namespace {

constexpr int64_t kCodesBytes = kGroup * kPanel;  // of 8-bit weights, per group
constexpr int64_t kScaleBytes = kPanel * 2;       // of fp16 scales, in front of a group

// A vector of stored weights feeds kHalves dot products, each with 4 codes of x. kOffsetBits: stored plus 2^that. With
// scales a tile has two chains of each feature in registers, its integers' and its groups', which is why I::kScaledRows
// and I::vectors are what they are.
struct I8 {
  static constexpr int32_t kType = FTH_I8;
  static constexpr int64_t kGroupBytes = kCodesBytes;
  static constexpr bool kScaled = false;  // a scale per group
  static constexpr int kHalves = 1, kOffsetBits = 7;
};
struct Q8 {
  static constexpr int32_t kType = FTH_Q8_0;
  static constexpr int64_t kGroupBytes = kScaleBytes + kCodesBytes;
  static constexpr bool kScaled = true;
  static constexpr int kHalves = 1, kOffsetBits = 7;
};
struct Q4 {
  static constexpr int32_t kType = FTH_Q4_0;
  static constexpr int64_t kGroupBytes = kScaleBytes + kCodesBytes / 2;
  static constexpr bool kScaled = true;
  static constexpr int kHalves = 2, kOffsetBits = 3;
};

// The links of the chains of some rows over a block of weights.
struct CodesTask {
  const char* x[6];         // each row's span in which the block begins
  int64_t begin, end, all;  // groups of 32 k, from that span's begin on: the block's, and where the row ends
  const char* w;
  const char* next;         // the next block, of which this tile fetches its share meanwhile, if that is not negative
  int64_t share, shares;
  int32_t* sums;            // [rows][kPanel]: of a span that begins before the block or ends behind it, so far
  const float* before;      // z so far, or zeros
  const float* scales;      // [kPanel], multiply z where the rows end here; or null
  float* z;                 // [rows][kPanel]
};

alignas(64) constexpr float kZeros[6 * kPanel] = {};
struct Ones {
  float x[kPanel];
  constexpr Ones() : x{} {
    for (float& one : x) one = 1;
  }
};
constexpr Ones kOnes;

template <class I, class Q>
struct CodesTile {
  static constexpr int kRows = Q::kScaled && I::kRows > I::kScaledRows ? I::kScaledRows : I::kRows;
  static constexpr int64_t kSteps = kGroup / 4 / Q::kHalves;  // of a group, kStepBytes of weights each
  static constexpr int64_t kSpan = span_of(Q::kType) * kGroups;
  static constexpr int64_t kVectorBytes = I::kLanes * 4;      // of weights: 4 of each lane

  static void run(int rows, const CodesTask& task) {
    switch (rows) {
      case 1: return passes<1>(task);
      case 2: return passes<2>(task);
      case 3: return passes<least(3)>(task);
      case 4: return passes<least(4)>(task);
      case 5: return passes<least(5)>(task);
      default: return passes<least(6)>(task);
    }
  }
  static int64_t pass_count(int rows) { return kPanel / I::kLanes / I::vectors(rows, Q::kScaled); }
  static constexpr int least(int rows) { return rows < kRows ? rows : kRows; }

  // N vectors of the panel's features per pass. Each brings its part of the next block: so many of every step's four
  // lines, in an even stream, since a burst of prefetches holds up the loads behind it.
  template <int R>
  static void passes(const CodesTask& task) {
    constexpr int N = I::vectors(R, Q::kScaled);
    constexpr int64_t kPasses = kPanel / (N * I::kLanes);
    constexpr bool kFetches = kPasses > 1 || 2 * R >= kRows;  // of several tiles none is smaller than half
    for (int64_t pass = 0; pass < kPasses; pass++) {
      const int64_t first = pass * N * I::kLanes, part = task.share * kPasses + pass, parts = task.shares * kPasses;
      if (!kFetches || part < 0) {
        tile<R, N, 0>(task, first, nullptr);
        continue;
      }
      const int64_t begin = part * 4 / parts, end = (part + 1) * 4 / parts;
      const char* next = task.next + (task.end - task.begin) * Q::kGroupBytes * begin / 4;
      switch (end - begin) {
        case 0: tile<R, N, 0>(task, first, next); break;
        case 1: tile<R, N, 1>(task, first, next); break;
        case 2: tile<R, N, 2>(task, first, next); break;
        default: tile<R, N, 4>(task, first, next);
      }
    }
  }

  template <int R, int N, int kLines>
  [[gnu::noinline]] static void tile(const CodesTask& task, int64_t first, [[maybe_unused]] const char* next) {
    const char* x[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) x[r] = task.x[r];
    const char* w = task.w + first * (Q::kScaled ? 2 : 4);
    const float* before = task.before + first;
    float* const z = task.z + first;
    for (int64_t span = 0; span < task.end; span += kSpan) {
      const int64_t groups = task.all - span < kSpan ? task.all - span : kSpan;
      const int64_t span_units = kSpan == kGroups ? 1 : (groups + kGroups - 1) / kGroups;
      const auto scale_of = [&](int r) -> const Scale& {
        return *reinterpret_cast<const Scale*>(x[r] + span_units * kCodeUnit);
      };
      typename I::V sum[R][N];
      typename I::F t[R][N];  // the chains over the groups of a span
      if constexpr (Q::kScaled) {
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) t[r][n] = I::zero();
        for (int64_t g = 0; g < groups; g++, w += Q::kGroupBytes) {
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) start<N>(sum[r], scale_of(r).minus_sum[g]);
          const char* of_group = w + kScaleBytes + first * 2;
          fetch<(kLines + 1) / 2>(next);  // of the scales' two lines
          for (int64_t k = g * kGroup, end = k + kGroup; k < end; k += 4 * Q::kHalves, of_group += kStepBytes)
            step<R, N, kLines>(sum, x, k, of_group, next);
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) {
            const typename I::F d = I::scales(w + n * I::kLanes * 2);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) t[r][n] = I::fma(I::to_float(sum[r][n]), d, t[r][n]);
          }
        }
      } else {
        const int64_t from = span < task.begin ? task.begin - span : 0;
        const int64_t to = task.end - span < groups ? task.end - span : groups;
        const auto so_far = [&](int r, int n) { return task.sums + first + r * kPanel + n * I::kLanes; };
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
          if (from == 0) start<N>(sum[r], scale_of(r).minus_span);
          else
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) sum[r][n] = I::load_sum(so_far(r, n));
        for (int64_t k = from * kGroup; k < to * kGroup; k += 4 * Q::kHalves, w += kStepBytes)
          step<R, N, kLines>(sum, x, k, w, next);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) asm volatile("" : "+v"(sum[r][n]));  // or GCC keeps them on the stack
        if (to < groups) {
#pragma GCC unroll 6
          for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) I::store_sum(so_far(r, n), sum[r][n]);
          return;
        }
      }
      const float* scales = task.scales == nullptr || span + kSpan < task.end ? kOnes.x : task.scales + first;
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        const typename I::F of_x = I::set(scale_of(r).scale);
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
          const int64_t at = r * kPanel + n * I::kLanes;
          const typename I::F link = Q::kScaled ? t[r][n] : I::to_float(sum[r][n]);
          const typename I::F chain = I::fma(of_x, link, I::load(before + at));
          I::store(z + at, Q::kScaled ? chain : I::mul(chain, I::load_scale(scales + n * I::kLanes)));
        }
        x[r] += span_units * kUnitBytes;
      }
      before = z;
    }
  }

  template <int N>
  [[gnu::always_inline]] static void start(typename I::V (&sum)[N], int32_t minus_sum) {
    const typename I::V offset = I::template offset<Q::kOffsetBits>(minus_sum);
    for (int n = 0; n < N; n++) sum[n] = offset;
  }

  template <int kLines>
  [[gnu::always_inline]] static void fetch(const char*& next) {
#pragma GCC unroll 4
    for (int i = 0; i < kLines; i++, next += 64) _mm_prefetch(next, _MM_HINT_T0);
  }

  // Adds the products of a step's codes, those from k on, and fetches kLines lines of `next`.
  template <int R, int N, int kLines>
  [[gnu::always_inline]] static void step(typename I::V (&sum)[R][N], const char* const (&x)[R], int64_t k,
                                          const char* w, [[maybe_unused]] const char*& next) {
    fetch<kLines>(next);
#pragma GCC unroll 2
    for (int half = 0; half < Q::kHalves; half++) {
      typename I::Weights b[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        const typename I::V stored = I::load_bytes(w + n * kVectorBytes);
        b[n] = I::template weights<Q::kOffsetBits>(Q::kHalves == 1 ? stored : I::nibbles(stored, half));
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        int32_t four;
        memcpy(&four, x[r] + k + half * 4, sizeof four);
        const typename I::V codes = I::set_int(four);
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) I::dot(sum[r][n], b[n], codes);
      }
    }
  }
};

template <class I, class Q>
struct CodesPanel {
  static constexpr int64_t kRows = CodesTile<I, Q>::kRows, kSpan = CodesTile<I, Q>::kSpan;
  static int64_t panel_bytes(int64_t k) { return fth::linear::panel_bytes(Q::kType, k); }
  static const float* scales(const char*, int64_t) { return nullptr; }  // the tile applies them

  // Four rows of q8_0 with AVX-512 are two narrow tiles, which pass over the weights once, in the order in which they
  // lie: a sixth faster from memory than one tile that passes twice.
  static bool narrow(int64_t rows) { return Q::kType == FTH_Q8_0 && kRows == 6 && rows == 4; }

  static constexpr int64_t kFewTiles = 4;
  // Groups of a block: 32 KiB of weights stay in the L1 cache or close to it while tiles pass over them. A few that
  // fetch the next block are done with theirs before it has come from memory, unless both are smaller. (Half a span of
  // int8 has its cost, too high for AVX2.) Many tiles of int8 read theirs from the L2 cache as fast, and begin less
  // often if it is larger.
  static int64_t block_groups(int64_t tiles, bool fetch) {
    constexpr int64_t kBlock = kGroups * (Q::kHalves == 1 ? 4 : 8);
    if (fetch && tiles <= kFewTiles && (Q::kScaled || kRows == 6)) return kBlock / 2;
    return !Q::kScaled && tiles >= 6 ? kBlock * 4 : kBlock;
  }

  template <class Done>
  static void product(const char* const* x, int64_t rows, const char* w, int64_t k, float* z, Done done) {
    const int64_t most = narrow(rows) ? 2 : kRows, groups = (k + kGroup - 1) / kGroup, tiles = (rows + most - 1) / most;
    // Two tiles fetch the next block both, of more those behind the first. One that passes over the weights once reads
    // them as a stream, which the processor prefetches best by itself.
    const bool fetch = tiles * CodesTile<I, Q>::pass_count(int(rows / tiles)) > 1 && !narrow(rows);
    const int64_t block = block_groups(tiles, fetch), silent = !fetch ? tiles : tiles > 2 ? 1 : 0;
    alignas(64) int32_t sums[kFewTiles * kRows * kPanel];
    for (int64_t begin = 0; begin < groups; begin += block) {
      const int64_t end = begin + block < groups ? begin + block : groups, span = begin / kSpan * kSpan;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t first = rows * tile / tiles, size = rows * (tile + 1) / tiles - first;
        CodesTask task{};
        for (int64_t r = 0; r < size; r++) task.x[r] = x[first + r] + span / kGroups * kUnitBytes;
        task.begin = begin - span;
        task.end = end - span;
        task.all = groups - span;
        task.w = w + begin * Q::kGroupBytes;
        task.next = w + end * Q::kGroupBytes;
        task.share = tile - silent;
        task.shares = tiles - silent;
        if (tiles <= kFewTiles) task.sums = sums + first * kPanel;
        task.z = z + first * kPanel;
        task.before = span == 0 ? kZeros : task.z;
        if (!Q::kScaled && end == groups) task.scales = reinterpret_cast<const float*>(w + panel_bytes(k)) - kPanel;
        CodesTile<I, Q>::run(int(size), task);
        if (end == groups) done(first, size);
      }
    }
  }
};

template <class V, class I>
void codes_panels(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  switch (a.type) {
    case FTH_I8: return panels<V, CodesPanel<I, I8>>(a, panel_begin, panel_end, row_begin, row_end);
    case FTH_Q8_0: return panels<V, CodesPanel<I, Q8>>(a, panel_begin, panel_end, row_begin, row_end);
    default: return panels<V, CodesPanel<I, Q4>>(a, panel_begin, panel_end, row_begin, row_end);
  }
}

}  // namespace
}  // namespace fth::linear
