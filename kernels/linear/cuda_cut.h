// How the host cuts products into items: strips of W, tiles of rows of x, parts of k.
#pragma once
#include "cuda_epilogue.h"

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

}  // namespace
}  // namespace fth::linear
