// y = r + g * act(z), z = W x + bias + addend + D_d u, for any rows of x: see linear.h. A block computes one strip of W
// (64 rows, tiles.h) for N rows of x and finishes those features; the floor is the bytes of W at the speed of memory
// up to some 200 rows, then the products at that of the tensor cores.
//
// The chain over k is cut into splits, a function of the shape of W alone: z is the sum of the splits' chains in order.
// With few rows every split has a block of its own, and the last of a strip to finish adds their sums; with many one
// block computes them all, one after the other. The bits are the same.
#include "cuda/activation.h"
#include "cuda_products.h"

namespace fth::linear {
namespace {

// Blocks that fill a chip. A number of its own and not the device's, on which bits would depend otherwise.
constexpr int64_t kRound = 132;

struct Params {
  Args a;
  ByDepth d;
  int64_t first;  // place of the first row
  int64_t strip_bytes;
  unsigned row_tiles;  // of N rows
  int steps, splits;
  int parts;  // blocks that share a strip and its rows: splits, or 1
  float* partials;
  unsigned* tickets;
};

// Behind the ring. A thread only touches its own sums until all are there.
template <int N>
struct Tile {
  static constexpr int kPitch = 68;
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
  for (int depth = -1;;) {
    int next = INT_MAX;
    for (int i = 0; i < N; i++)
      if (tile.depth[i] > depth && tile.depth[i] < next) next = tile.depth[i];
    if (next == INT_MAX) return;
    depth = next;
    float chain[N / 2] = {};
    const unsigned char* weight = static_cast<const unsigned char*>(d.weight) + depth * d.depth_bytes;
    multiply<P, N>(chain, weight + strip * d.strip_bytes, x, begin, end, ring);
#pragma unroll
    for (int i = 0; i < N / 2; i++)
      if (tile.depth[column_of(i)] == depth) tile.sum(i) += chain[i];
  }
}

template <int N>
__device__ __forceinline__ void finish(const Args& a, int64_t strip, int64_t pick, const Tile<N>& tile) {
  const int features = a.glu ? 32 : 64;
  for (int i = int(threadIdx.x); i < N * features; i += kThreads) {
    const int column = i / features, f = i % features;
    const int64_t row = tile.row[column], feature = strip * features + f;
    if (row < 0) continue;
    if (pick >= 0 && feature != a.picks[pick]) continue;
    if (feature >= a.n) {
      if (a.y_bf16 != nullptr && feature < (a.n + 7) / 8 * 8) a.y_bf16[row * a.y_bf16_stride + feature] = 0;
      continue;
    }
    const auto product = [&](int at, int64_t w_row) {
      float v = tile.z[column * Tile<N>::kPitch + at];
      if (a.bias != nullptr) v += a.bias[w_row];
      if (a.addend != nullptr) v += a.addend[row * a.addend_stride + w_row];
      return v;
    };
    const int at = a.glu ? f / 8 * 16 + f % 8 : f;
    float y = activate(a.activation, product(at, feature));
    if (a.glu) y *= product(at + 8, a.n + feature);
    if (a.gate != nullptr) y *= a.gate[row];
    if (a.residual != nullptr) y += a.residual[row * a.residual_stride + feature];
    if (a.y != nullptr) a.y[pick >= 0 ? pick : row * a.y_stride + feature] = y;
    if (a.y_bf16 != nullptr) a.y_bf16[row * a.y_bf16_stride + feature] = to_bf16(y).bits;
  }
}

// A pick has a block of its own, of whose columns the first is its row.
// Sole: there is no W, all of z is D_d x.
template <class P, int N, bool Sole>
__global__ void __launch_bounds__(kThreads, N == 64 ? 2 : N == 32 ? 3 : 4) linear_strip(const __grid_constant__ Params p) {
  unsigned char* ring = shared_memory<unsigned char>();
  Tile<N>& tile = *shared_memory<Tile<N>>(kRing<P, N>);
  const unsigned row_tile = blockIdx.x % p.row_tiles, rest = blockIdx.x / p.row_tiles;
  const int part = int(rest % unsigned(p.parts));
  const int64_t pick = p.a.picks == nullptr ? -1 : p.first + row_tile;
  const int64_t strip = pick >= 0 ? p.a.picks[pick] / kTileRows : rest / unsigned(p.parts);
  const int64_t first = pick >= 0 ? pick : p.first + int64_t(row_tile) * N;
  const int64_t count = p.a.live == nullptr || *p.a.live > p.a.count ? p.a.count : *p.a.live;
  if (first >= count) return;
  for (int i = int(threadIdx.x); i < N; i += kThreads) {
    const int64_t place = first + i;
    int row = place >= count ? -1 : p.a.rows == nullptr ? int(place) : p.a.rows[place];
    if (pick >= 0) row = i == 0 ? int(pick / p.a.picks_per_row) : -1;
    tile.row[i] = row;
    tile.depth[i] = row < 0 || p.d.weight == nullptr ? -1 : p.d.rows[row].depth;
  }
  __syncthreads();

  const unsigned char* w = static_cast<const unsigned char*>(p.a.weight) + strip * p.strip_bytes;
  const Columns x{static_cast<const char*>(p.a.x), p.a.x_bytes, p.a.k, tile.row};
#pragma unroll
  for (int i = 0; i < N / 2; i++) tile.sum(i) = 0;
  for (int split = part; split < (p.parts == 1 ? p.splits : part + 1); split++) {
    const int begin = p.steps * split / p.splits, end = p.steps * (split + 1) / p.splits;
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
    const int64_t place = rest / unsigned(p.parts) * p.row_tiles + row_tile;
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
  if constexpr (P::kType == FTH_I8) {
    const float* scales = reinterpret_cast<const float*>(w + p.steps * int64_t(kTileBytes));
#pragma unroll
    for (int i = 0; i < N / 2; i++) tile.sum(i) *= scales[strip_row(i)];
  }
  if constexpr (!Sole)
    if (p.d.weight != nullptr)
      multiply_by_depth<typename P::Lora, N>(tile, p.d, strip, 0, p.d.steps, ring);
  __syncthreads();
  finish<N>(p.a, strip, pick, tile);
}

int64_t clamp(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

// The fewest splits of at least four steps with which the strips fill rounds of blocks nearly as well as with any.
int splits_of(int64_t strips, int64_t steps) {
  const int64_t most = clamp(steps / 4, 1, 16);
  const auto filled = [strips](int64_t splits) {
    const int64_t blocks = strips * splits;
    return double(blocks) / double((blocks + kRound - 1) / kRound * kRound);
  };
  double best = 0;
  for (int64_t s = 1; s <= most; s++) best = filled(s) > best ? filled(s) : best;
  for (int64_t s = 1;; s++)
    if (filled(s) >= 0.9 * best) return int(s);
}

template <class P, int N, bool Sole>
void start(Params p, int64_t count, const Workspace& space, Stream stream) {
  const bool picks = p.a.picks != nullptr;
  const int64_t strips = picks ? 1 : tiles::strips(p.a.n, p.a.glu), row_tiles = picks ? count : (count + N - 1) / N,
                sums = strips * row_tiles;
  p.splits = splits_of(tiles::strips(p.a.whole_n == 0 ? p.a.n : p.a.whole_n, p.a.glu), p.steps);
  p.row_tiles = unsigned(row_tiles);
  const bool shared = sums < 2 * kRound && sums <= space.ticket_count &&
                      sums * p.splits * N * 64 * 4 <= space.partial_bytes;
  p.parts = shared ? p.splits : 1;
  p.partials = space.partials;
  p.tickets = space.tickets;
  launch(linear_strip<P, N, Sole>, {dim3(unsigned(sums * p.parts)), dim3(kThreads), size_t(kRing<P, N> + int(sizeof(Tile<N>)))},
         stream, p);
}

template <class P, bool Sole>
void start(Params p, const Workspace& space, Stream stream) {
  constexpr int64_t kMost = 4096;  // rows of a launch, so that its blocks can be counted
  for (; p.first < p.a.count; p.first += kMost) {
    const int64_t count = clamp(p.a.count - p.first, 0, kMost);
    if (count <= 8 || p.a.picks != nullptr) start<P, 8, Sole>(p, count, space, stream);
    else if (count <= 16) start<P, 16, Sole>(p, count, space, stream);
    else if (count <= 32) start<P, 32, Sole>(p, count, space, stream);
    else start<P, 64, Sole>(p, count, space, stream);
  }
}

template <class Bf16OfDevice>
void start(const Params& p, int32_t type, const Workspace& space, Stream stream) {
  const bool sole = p.a.weight == nullptr;
  switch (type) {
    case FTH_F32: return sole ? start<F32, true>(p, space, stream) : start<F32, false>(p, space, stream);
    case FTH_BF16:
      return sole ? start<Bf16OfDevice, true>(p, space, stream) : start<Bf16OfDevice, false>(p, space, stream);
    case FTH_I8: return start<Quantised<FTH_I8, Bf16OfDevice>, false>(p, space, stream);
    case FTH_Q8_0: return start<Quantised<FTH_Q8_0, Bf16OfDevice>, false>(p, space, stream);
    default: return start<Quantised<FTH_Q4_0, Bf16OfDevice>, false>(p, space, stream);
  }
}

}  // namespace

void cuda::product(const Args& args, int32_t type, const ByDepth& by_depth, const Workspace& space, Stream stream) {
  Params p{};
  p.a = args;
  p.d = by_depth;
  p.strip_bytes = tiles::strip_bytes(type, args.k);
  p.steps = int(args.weight == nullptr ? by_depth.steps : tiles::steps(type, args.k));
  if (space.wgmma) start<Bf16Wide>(p, type, space, stream);
  else start<Bf16>(p, type, space, stream);
}

}  // namespace fth::linear
