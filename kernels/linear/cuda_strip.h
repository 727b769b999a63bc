// The kernel that all devices have. A block of 128 threads computes one strip of W for N rows of x and finishes those
// features; steps of both operands come by cp.async through a ring of some 48 KB, and several blocks share a
// multiprocessor.
#pragma once
#include "cuda/grid.h"
#include "cuda_epilogue.h"

namespace fth::linear {
namespace {

constexpr int kThreads = 128;

template <class P, int N>
constexpr int kStages = 48 * 1024 / Stage<P, N>::kBytes > 3 ? 48 * 1024 / Stage<P, N>::kBytes : 3;
template <class P, int N>
constexpr int kRingBytes = Stage<P, N>::kBytes * kStages<P, N>;

// acc += steps [begin, end) of a strip times the columns. The ring is 1024-byte aligned shared memory, free again
// afterwards; the columns' rows were written before a barrier.
template <class P, int N>
__device__ __forceinline__ void multiply(float (&acc)[N / 2], const unsigned char* strip, const Columns& x,
                                         int64_t begin, int64_t end, unsigned char* ring) {
  using S = Stage<P, N>;
  constexpr int kCount = kStages<P, N>;
  const auto load = [&](int64_t step, int at) {
    unsigned char* stage = ring + at * S::kBytes;
    const unsigned char* w = strip + step * S::kStepBytes;
    const int byte = int(threadIdx.x) * 16;
#pragma unroll
    for (int i = 0; i < kTileBytes; i += kThreads * 16) copy16(stage + i + byte, w + i + byte);
    if (byte < S::kScaleBytes) copy16(stage + S::kScales + byte, w + kTileBytes + byte);
    P::template load_x<N, kThreads>(S::of(stage), x, step, int(threadIdx.x));
  };
  int fill = 0, drain = 0;
  for (; fill < kCount - 1; fill++) {
    if (begin + fill < end) load(begin + fill, fill);
    copy_commit();
  }
#pragma unroll 1
  for (int64_t step = begin; step < end; step++) {
    copy_wait<kCount - 2>();
    __syncthreads();  // this stage is there, and all threads are done with the one before
    if (step + kCount - 1 < end) load(step + kCount - 1, fill);
    copy_commit();
    fill = fill + 1 == kCount ? 0 : fill + 1;
    P::template step<N>(acc, S::of(ring + drain * S::kBytes));
    drain = drain + 1 == kCount ? 0 : drain + 1;
  }
  copy_wait<0>();
  __syncthreads();
}

// Behind the ring. A thread only touches its own sums until all are there.
template <int N>
struct Tile {
  int row[N], depth[N];  // of the columns; -1: none
  unsigned ticket;
  float z[N * kPitch];

  __device__ float& sum(int i) { return z[column_of(i) * kPitch + strip_row(i)]; }
};

template <class P, int N>
constexpr int kRing = kRingBytes<P, N> > kRingBytes<typename P::Lora, N> ? kRingBytes<P, N>
                                                                       : kRingBytes<typename P::Lora, N>;

// z += D_d x, each column by its depth.
template <class P, int N>
__device__ __forceinline__ void multiply_by_depth(Tile<N>& tile, const ByDepth& d, int64_t strip, int64_t begin,
                                                  int64_t end, unsigned char* ring) {
  const Columns x{static_cast<const char*>(d.x), d.x_bytes, d.k, tile.row};
  for (int depth = next_depth(tile.depth, N, -1); depth != INT_MAX; depth = next_depth(tile.depth, N, depth)) {
    float chain[N / 2] = {};
    const unsigned char* weight = static_cast<const unsigned char*>(d.weight) + depth * d.depth_bytes;
    multiply<P, N>(chain, weight + strip * d.strip_bytes, x, begin, end, ring);
#pragma unroll
    for (int i = 0; i < N / 2; i++)
      if (tile.depth[column_of(i)] == depth) tile.sum(i) += chain[i];
  }
}

// Sole: there is no W, all of z is D_d x.
template <class P, int N, bool Sole>
__global__ void __launch_bounds__(kThreads, N == 64 ? 2 : N == 32 ? 3 : 4)
    linear_strip(const __grid_constant__ Params p) {
  unsigned char* ring = shared_memory<unsigned char>();
  Tile<N>& tile = *shared_memory<Tile<N>>(kRing<P, N>);
  const int64_t row_tile = blockIdx.x % p.row_tiles, rest = blockIdx.x / p.row_tiles;
  const int part = int(rest % p.parts);
  const int64_t first = p.a.picks == nullptr ? row_tile * N : row_tile, count = p.count();
  if (first >= count) return;
  const int64_t strip = p.a.picks == nullptr ? rest / p.parts : p.a.picks[first] / kTileRows;
  for (int i = int(threadIdx.x); i < N; i += kThreads) {
    tile.row[i] = p.row(first, i, count);
    tile.depth[i] = p.depth(tile.row[i]);
  }
  __syncthreads();

  const unsigned char* w = static_cast<const unsigned char*>(p.a.weight) + strip * p.strip_bytes;
  const Columns x{static_cast<const char*>(p.a.x), p.a.x_bytes, p.a.k, tile.row};
#pragma unroll
  for (int i = 0; i < N / 2; i++) tile.sum(i) = 0;
  for (int split = part; split < (p.parts == 1 ? p.splits : part + 1); split++) {
    const int begin = p.template split_begin<P>(split), end = p.template split_begin<P>(split + 1);
    if constexpr (Sole) {
      multiply_by_depth<P, N>(tile, p.d, strip, begin, end, ring);
    } else {
      float chain[N / 2] = {};
      multiply<P, N>(chain, w, x, begin, end, ring);
#pragma unroll
      for (int i = 0; i < N / 2; i++) tile.sum(i) += chain[i];
    }
  }
  if (p.parts > 1) {
    const int64_t place = rest / p.parts * p.row_tiles + row_tile;
    float* partials = p.partials + place * p.parts * N * 64 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < N / 2; i++) partials[(part * N / 2 + i) * kThreads] = tile.sum(i);
    if (!last_block(p.tickets + place, unsigned(p.parts), &tile.ticket)) return;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      float z = 0;
      for (int other = 0; other < p.parts; other++) z += load_fresh(partials + (other * N / 2 + i) * kThreads);
      tile.sum(i) = z;
    }
  }
  if constexpr (P::kScaled) {
    const float* scales = reinterpret_cast<const float*>(w + p.steps * int64_t(kTileBytes));
#pragma unroll
    for (int i = 0; i < N / 2; i++) tile.sum(i) *= scales[strip_row(i)];
  }
  if constexpr (!Sole)
    if (p.d.weight != nullptr)
      multiply_by_depth<typename P::Lora, N>(tile, p.d, strip, 0, p.d.steps, ring);
  __syncthreads();
  finish(p.a, strip, first, tile.z, tile.row, N, int(threadIdx.x), kThreads);
}

}  // namespace
}  // namespace fth::linear
