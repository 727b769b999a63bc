// y = r + g * act(z), z = W x + bias + addend + D_d u, for any rows of x: see linear.h. Blocks compute strips of W (64
// rows, tiles.h) for N rows of x and finish those features; the floor is the bytes of W at the speed of memory up to
// some 200 rows, then the products at that of the tensor cores.
//
// The chain over k is cut into splits, a function of the shape of W alone: z is the sum of the splits' chains in order.
// With few rows every split has a block of its own, and the last of a strip to finish adds their sums; with many one
// block computes them all, one after the other. The bits are the same, and with any N.
#include "cuda_cut.h"
#include "cuda_strip.h"

namespace fth::linear {
namespace {

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

// ---- tasks ---------------------------------------------------------------------------------------------------------

void add_tasks(const Product* list, int count, Workspace space, TaskList& tasks) {
  bool first = true;
  for (int i = 0; i < count; i++) {
    if (list[i].args.count <= 0) continue;
    Params p = params_of(list[i]);
    const int64_t items = cut(p, int(kTaskRows), 1, space);
    tasks.add(p.a.weight == nullptr ? Op::by_depth : Op::product, first ? Share::all : Share::beside, items, p);
    first = false;
  }
}

}  // namespace

void cuda::products(const Product* list, int count, const Workspace& space, const Queue& queue) {
  if (queue.tasks != nullptr) return add_tasks(list, count, space, *queue.tasks);
  for (int i = 0, end; i < count; i = end) {
    end = i + 1;
    if (!space.wgmma || list[i].type == FTH_F32) {
      if (list[i].args.count > 0) start_strips(list[i], space, queue.stream);
      continue;
    }
    while (end < count && list[end].type != FTH_F32) end++;
    cuda90::products(list + i, end - i, space, queue.stream);
  }
}

}  // namespace fth::linear
