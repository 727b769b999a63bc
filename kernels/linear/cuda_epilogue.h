// The end of a product: y = r + g * act(z) from the sums of one strip, which pass through shared memory so that rows of
// y are written in whole lines.
#pragma once
#include <climits>

#include "cuda/activation.h"
#include "cuda_products.h"

namespace fth::linear {
namespace {

// A product and how it is cut: into strips of 64 rows of W, tiles of N rows of x, and parts of k. Picks count as tiles
// of one strip, which they choose.
struct Params {
  Args a;
  ByDepth d;
  int64_t strip_bytes, strips, row_tiles;
  int steps, splits;
  int parts;  // blocks that share a strip and its rows: splits, or 1
  float* partials;
  unsigned* tickets;

  __device__ int64_t count() const { return a.live == nullptr || *a.live > a.count ? a.count : *a.live; }
  // The row of column i of a tile whose first is at a place; -1: none. A pick has a tile of its own.
  __device__ int row(int64_t first, int i, int64_t count) const {
    const int64_t place = first + i;
    if (a.picks != nullptr) return i == 0 ? int(first / a.picks_per_row) : -1;
    return place >= count ? -1 : a.rows == nullptr ? int(place) : a.rows[place];
  }
  __device__ int depth(int row) const { return row < 0 || d.weight == nullptr ? -1 : d.rows[row].depth; }
  // Sums of a strip and its rows: of each part, and of D_d x.
  __host__ __device__ int slots() const { return parts + (d.weight != nullptr && a.weight != nullptr ? 1 : 0); }
  // The first step of a split of weights P, which is a multiple of P::kUnit.
  template <class P>
  __device__ int split_begin(int split) const {
    if constexpr (P::kUnit == 1) return int(int64_t(steps) * split / splits);
    else return min(steps, int(int64_t((steps + P::kUnit - 1) / P::kUnit) * split / splits) * P::kUnit);
  }
};

// The smallest depth of any column above `depth`; INT_MAX: none.
__device__ __forceinline__ int next_depth(const int* depths, int columns, int depth) {
  int next = INT_MAX;
#pragma unroll 1
  for (int i = int(threadIdx.x % 32); i < columns; i += 32)
    if (depths[i] > depth && depths[i] < next) next = depths[i];
  return int(__reduce_min_sync(~0u, unsigned(next)));
}

constexpr int kPitch = 68;  // from column to column of sums in shared memory: no two lanes share a bank

// `threads` threads, whole warps, finish the columns whose sums are at z; they have met since those were written.
// `first`: the place of the first column.
__device__ __forceinline__ void finish(const Args& a, int64_t strip, int64_t first, const float* z, const int* rows,
                                       int columns, int thread, int threads) {
  const int features = a.glu ? 32 : 64;
  for (int column = thread / 32; column < columns; column += threads / 32) {
    const int64_t row = rows[column];
    if (row < 0) continue;
    for (int f = thread % 32; f < features; f += 32) {
      const int64_t feature = strip * features + f;
      if (a.picks != nullptr && feature != a.picks[first]) continue;
      if (feature >= a.n) {
        if (a.y_bf16 != nullptr && feature < (a.n + 7) / 8 * 8) a.y_bf16[row * a.y_bf16_stride + feature] = 0;
        continue;
      }
      const auto product = [&](int at, int64_t w_row) {
        float v = z[column * kPitch + at];
        if (a.bias != nullptr) v += a.bias[w_row];
        if (a.addend != nullptr) v += a.addend[row * a.addend_stride + w_row];
        return v;
      };
      const int at = a.glu ? f / 8 * 16 + f % 8 : f;
      float y = activate(a.activation, product(at, feature));
      if (a.glu) y *= product(at + 8, a.n + feature);
      if (a.gate != nullptr) y *= a.gate[row];
      if (a.residual != nullptr) y += a.residual[row * a.residual_stride + feature];
      if (a.y != nullptr) a.y[a.picks != nullptr ? first : row * a.y_stride + feature] = y;
      if (a.y_bf16 != nullptr) a.y_bf16[row * a.y_bf16_stride + feature] = to_bf16(y).bits;
    }
  }
}

// Ends a product: what 128 threads, `thread` of them the caller, do with the sums of a strip and some columns (of 8 and
// more), which are at z; as finish.
struct Finish {
  __device__ __forceinline__ void operator()(const Args& a, int64_t strip, int64_t first, const float* z,
                                             const int* rows, int columns, int thread) const {
    finish(a, strip, first, z, rows, columns, thread, 128);
  }
};

}  // namespace
}  // namespace fth::linear
