// y = r + g * act(z), z = W x + bias + addend + D_d u, for any rows of x: see linear.h. Blocks compute strips of W (64
// rows, tiles.h) for N rows of x and finish those features; the floor is the bytes of W at the speed of memory up to
// some 200 rows, then the products at that of the tensor cores.
//
// The chain over k is cut into splits, a function of the shape of W alone: z is the sum of the splits' chains in order.
// With few rows every split has a block of its own, and the last of a strip to finish adds their sums; with many one
// block computes them all, one after the other. The bits are the same, and with any N.
#include "cuda_stream.h"
#include "cuda_strip.h"

namespace fth::linear {
namespace {

// Blocks that fill a chip. A number of its own and not the device's, on which bits would depend otherwise.
constexpr int64_t kRound = 132;

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

Params params_of(const Product& product) {
  Params p{};
  p.a = product.args;
  p.d = product.by_depth;
  p.strips = p.a.picks == nullptr ? tiles::strips(p.a.n, p.a.glu) : 1;
  p.strip_bytes = tiles::strip_bytes(product.type, p.a.k);
  p.steps = int(p.a.weight == nullptr ? p.d.steps : tiles::steps(product.type, p.a.k));
  // f8 is cut where bf16 is: as often, and that only behind an even number of its steps of 64 k.
  const bool f8 = product.type == FTH_F8_E4M3;
  p.splits = splits_of(tiles::strips(p.a.whole_n == 0 ? p.a.n : p.a.whole_n, p.a.glu),
                       f8 ? tiles::steps(FTH_BF16, p.a.k) : p.steps);
  return p;
}

// Cuts a product into tiles of `columns` rows and, if there is room in the workspace for their sums, parts of k; takes
// that room. `strips` are computed together. Returns the number of items.
int64_t cut(Params& p, int columns, int strips, Workspace& space) {
  p.row_tiles = p.a.picks == nullptr ? (p.a.count + columns - 1) / columns : p.a.count;
  const int64_t places = (p.strips + strips - 1) / strips * p.row_tiles;
  p.parts = p.splits;
  const int64_t bytes = places * p.slots() * columns * 64 * strips * 4;
  if (p.splits == 1 || places >= 2 * kRound || places > space.ticket_count || bytes > space.partial_bytes) {
    p.parts = 1;
    return places;
  }
  p.partials = space.partials;
  p.tickets = space.tickets;
  space.partials += bytes / 4;
  space.partial_bytes -= bytes;
  space.tickets += places;
  space.ticket_count -= places;
  return places * p.parts;
}

// ---- the portable kernel -------------------------------------------------------------------------------------------

template <class P, int N, bool Sole>
void start_strips(Params p, Workspace space, Stream stream) {
  const int64_t blocks = cut(p, N, 1, space);
  launch(linear_strip<P, N, Sole>,
         {dim3(unsigned(blocks)), dim3(kThreads), size_t(kRing<P, N> + int(sizeof(Tile<N>)))}, stream, p);
}

template <class P, bool Sole>
void start_strips(const Params& p, const Workspace& space, Stream stream) {
  if (p.a.count <= 8 || p.a.picks != nullptr) start_strips<P, 8, Sole>(p, space, stream);
  else if (p.a.count <= 16) start_strips<P, 16, Sole>(p, space, stream);
  else if (p.a.count <= 32) start_strips<P, 32, Sole>(p, space, stream);
  else start_strips<P, 64, Sole>(p, space, stream);
}

template <class P>
void start_strips(const Params& p, const Workspace& space, Stream stream) {
  if (p.a.weight == nullptr) start_strips<P, true>(p, space, stream);
  else start_strips<P, false>(p, space, stream);
}

void start_strips(const Product& product, const Workspace& space, Stream stream) {
  const Params p = params_of(product);
  switch (product.type) {
    case FTH_F32: return start_strips<F32>(p, space, stream);
    case FTH_BF16: return start_strips<Bf16>(p, space, stream);
    case FTH_F8_E4M3: return start_strips<F8, false>(p, space, stream);
    case FTH_I8: return start_strips<Quantised<FTH_I8, Bf16>, false>(p, space, stream);
    case FTH_Q8_0: return start_strips<Quantised<FTH_Q8_0, Bf16>, false>(p, space, stream);
    default: return start_strips<Quantised<FTH_Q4_0, Bf16>, false>(p, space, stream);
  }
}

// ---- Hopper's ------------------------------------------------------------------------------------------------------

template <class P, int N, int Strips, bool Sole>
void start_stream(Batch& batch, Workspace space, Stream stream) {
  using H = Shape<P, N, Strips>;
  int64_t items = 0;
  for (int i = 0; i < batch.count; i++) batch.end[i] = items += cut(batch.product[i], N, Strips, space);
  const int64_t blocks = clamp(items, 1, space.multiprocessors);
  launch(linear_stream<P, N, Strips, Sole>,
         {dim3(unsigned(blocks)), dim3(H::kThreads), size_t(H::kBytes), false, true}, stream, batch);
}

template <class P, bool Sole>
void start_stream(Batch& batch, const Workspace& space, Stream stream) {
  int64_t rows = 0;
  for (int i = 0; i < batch.count; i++)
    if (batch.product[i].a.picks == nullptr && batch.product[i].a.count > rows) rows = batch.product[i].a.count;
  if (rows <= 8) return start_stream<P, 8, 1, Sole>(batch, space, stream);
  if (rows <= 16) return start_stream<P, 16, 1, Sole>(batch, space, stream);
  if (rows <= 32) return start_stream<P, 32, 1, Sole>(batch, space, stream);
  if constexpr (P::kColumns > 64 && !Sole) {
    if constexpr (P::kColumns > 128) {
      // The largest tiles of which there are enough for all multiprocessors.
      int64_t large = 0, middle = 0;
      bool direct = true;  // one chain
      for (int i = 0; i < batch.count; i++) {
        const Params& p = batch.product[i];
        const int64_t pairs = (p.strips + 1) / 2;
        large += pairs * ((p.a.count + 255) / 256);
        middle += pairs * ((p.a.count + 127) / 128) * p.splits;
        direct = direct && p.splits == 1 && p.d.weight == nullptr;
      }
      if (rows > 128 && direct && large >= space.multiprocessors)
        return start_stream<P, 256, 2, false>(batch, space, stream);
      if (rows > 128 && middle >= space.multiprocessors) return start_stream<P, 128, 2, false>(batch, space, stream);
    }
    if (rows > 64) return start_stream<P, 128, 1, false>(batch, space, stream);
  }
  start_stream<P, 64, 1, Sole>(batch, space, stream);
}

void start_stream(Batch& batch, int32_t type, const Workspace& space, Stream stream) {
  switch (type) {
    case FTH_BF16:
      return batch.product[0].a.weight == nullptr ? start_stream<Bf16Wide, true>(batch, space, stream)
                                                  : start_stream<Bf16Wide, false>(batch, space, stream);
    case FTH_F8_E4M3: return start_stream<F8Wide, false>(batch, space, stream);
    case FTH_I8: return start_stream<Quantised<FTH_I8, Bf16Wide>, false>(batch, space, stream);
    case FTH_Q8_0: return start_stream<Quantised<FTH_Q8_0, Bf16Wide>, false>(batch, space, stream);
    default: return start_stream<Quantised<FTH_Q4_0, Bf16Wide>, false>(batch, space, stream);
  }
}

}  // namespace

void cuda::products(const Product* list, int count, const Workspace& space, Stream stream) {
  Batch batch;
  batch.count = 0;
  for (int i = 0; i < count; i++) {
    if (list[i].args.count <= 0) continue;
    if (!space.wgmma || list[i].type == FTH_F32) {
      start_strips(list[i], space, stream);
      continue;
    }
    batch.product[batch.count++] = params_of(list[i]);
    const bool goes_on = i + 1 < count && batch.count < Batch::kMost && list[i + 1].args.count > 0 &&
                         list[i + 1].type == list[i].type && list[i].args.picks == list[i + 1].args.picks &&
                         (list[i + 1].args.weight == nullptr) == (list[i].args.weight == nullptr);
    if (goes_on) continue;
    start_stream(batch, list[i].type, space, stream);
    batch.count = 0;
  }
}

}  // namespace fth::linear
