// The kernel for Hopper: blocks that stay and work through items (strips of W, N rows of x, a part of k) while a ring
// in shared memory is kept full of the steps to come, over the ends of items, so that the stream of W never runs dry.
//
// Strips * 128 threads multiply (each 128 of them one strip) and finish; behind them are the loaders: one warp with one
// strip, four with two. One of their threads brings whole tile images of W by bulk copies; all of them place 16 bytes
// of rows of x at a time by cp.async, which gathers listed rows at no cost.
//
// Floors, and what is expected on an H200 (4.3 TB/s of copy, 33 bytes per ns and multiprocessor): up to some 200 rows
// the bytes of W. 8 KB come every 250 ns and take a warpgroup 100 ns with 8 rows; 190 KB under way cover 5.8 us, more
// than an epilogue. So 0.85 of copy for bf16 from 32 MB on, and less below, where start and end (4 us together) take
// their part. With 64 rows the sums of q8_0 take 200 ns per 8 KB and stay behind the copies; those of q4_0, twice as
// many, do not: 0.6. With many rows 128 x 256 tiles ask the L2 cache for 48 bytes per clock and multiprocessor, more
// than it gives at full clock: 0.6 to 0.7 of the products' ceiling, until clusters share the rows of x.
#pragma once
#include "cuda/grid.h"
#include "cuda_epilogue.h"

namespace fth::linear {
namespace {

// Products of one type that are multiplied together, the items of one after those of another.
struct Batch {
  static constexpr int kMost = 4;
  Params product[kMost];
  int64_t end[kMost];  // of the items
  int count;

  // The product of an item, whose number becomes that among the product's own.
  __device__ const Params& product_of(int64_t* item) const {
    int i = 0;
    while (*item >= end[i]) i++;
    if (i > 0) *item -= end[i - 1];
    return product[i];
  }
};

// Kept: bytes of shared memory in front of the ring that are something else's, a multiple of 1024.
template <class P, int Columns, int OfStrips, int Kept = 0>
struct Shape {
  using Type = P;
  static constexpr int N = Columns, Strips = OfStrips;
  using S = Stage<P, N, Strips>;
  using L = Stage<typename P::Lora, N, Strips>;
  static constexpr int kConsumers = Strips * 128, kLoaders = Strips == 1 ? 32 : 128, kThreads = kConsumers + kLoaders;
  static constexpr int kSlot = S::kBytes > L::kBytes ? S::kBytes : L::kBytes;
  static constexpr int kColumns = N < 128 ? N : N == 256 ? 128 : 64;  // whose sums are in shared memory at a time

  static constexpr int kSums = kColumns * kPitch * 4;  // of a strip
  static constexpr int kRest = Strips * kSums + 4 * N * 4 + 1024;
  static constexpr int kMostStages = (227 * 1024 - Kept - kRest) / kSlot;
  static constexpr int kStages = kMostStages < 24 ? kMostStages : 24;
  static constexpr int kRing = Kept, kShared = Kept + kStages * kSlot, kBytes = kShared + kRest;
  // Stages whose rows of x are under way while the loaders ask for the next.
  static constexpr int kBehind = kStages - 2 < 8 ? kStages - 2 : 8;
  // Stages of W that are asked for before the kernel in front has finished.
  static constexpr int kEarly = kStages < 4 ? kStages : 4;
  static_assert(kStages >= 3, "no ring");
  static_assert(Kept % 1024 == 0, "the ring is of tiles");
};

// Shared memory behind the stages.
template <class H>
struct Shared {
  Barrier full[H::kStages], empty[H::kStages];
  unsigned ticket;
  // Of the loaders' columns, and of the others'; -1: none.
  int load_row[H::N], load_depth[H::N], row[H::N], depth[H::N];
  alignas(16) float z[H::Strips][H::kColumns * kPitch];
};

// The stages and what is behind them, its barriers made. By all threads of a block, which have met when it returns.
template <class H>
__device__ __forceinline__ Shared<H>& make_ring() {
  static_assert(sizeof(Shared<H>) <= H::kRest, "no room behind the ring");
  auto& shared = *shared_memory<Shared<H>>(H::kShared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < H::kStages; i++) {
      barrier_init(shared.full + i, H::kLoaders / 32 + 1);
      barrier_init(shared.empty + i, H::kConsumers / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();
  return shared;
}

// A place in the ring; stages are used in turn.
template <int Stages>
struct Turn {
  int at = 0, phase = 0;
  __device__ void next() {
    if (++at == Stages) {
      at = 0;
      phase ^= 1;
    }
  }
};

// Strips of one product for N rows, or a part of them.
template <int N, int Strips>
struct Item {
  int64_t strip, first, place;
  int part;

  Item() = default;
  // Neighbours run at the same time: they are a patch of strips and row tiles that share what they read.
  __device__ Item(const Params& p, int64_t number) {
    constexpr int64_t kBand = 8;
    const int64_t groups = (p.strips + Strips - 1) / Strips;
    part = int(number % p.parts);
    place = number / p.parts;
    const int64_t band = place / (groups * kBand), rest = place - band * groups * kBand;
    const int64_t width = min(kBand, p.row_tiles - band * kBand);
    strip = rest / width * Strips;
    first = (band * kBand + rest % width) * N;
    if (p.a.picks == nullptr) return;
    first = place;
    strip = p.a.picks[first] / kTileRows;
  }
  __device__ int first_split(const Params& p) const { return p.parts == 1 ? 0 : part; }
  __device__ int last_split(const Params& p) const { return p.parts == 1 ? p.splits - 1 : part; }
  // Steps of W: those of all splits.
  template <class P>
  __device__ int first_step(const Params& p) const { return p.template split_begin<P>(first_split(p)); }
  template <class P>
  __device__ int last_step(const Params& p) const { return p.template split_begin<P>(last_split(p) + 1); }
  // One part of every strip and rows has D_d x to add.
  __device__ bool adds_by_depth(const Params& p) const {
    return p.d.weight != nullptr && (p.parts == 1 || part == p.parts - 1);
  }
};

// The items of a launch that a block computes, one after the other.
template <class H>
struct BatchItems {
  const Batch& batch;
  int64_t number = blockIdx.x;  // of the next
  bool live_known = false;      // else they may turn out to have no rows
  const Params* product = nullptr;
  Item<H::N, H::Strips> item = {};

  // Goes to the next item; false: there is none.
  __device__ __forceinline__ bool next() {
    for (; number < batch.end[batch.count - 1];) {
      int64_t own = number;
      product = &batch.product_of(&own);
      item = Item<H::N, H::Strips>(*product, own);
      number += gridDim.x;
      if (!live_known || item.first < product->count()) return true;
    }
    return false;
  }
};

// Calls body(split's first step, last) for the splits of an item.
template <class P, class Item, class Body>
__device__ __forceinline__ void for_splits(const Params& p, const Item& item, Body body) {
#pragma unroll 1
  for (int split = item.first_split(p); split <= item.last_split(p); split++)
    body(p.template split_begin<P>(split), p.template split_begin<P>(split + 1));
}

// The steps of W of a launch's first item that are asked for before the kernel in front has finished. Of picks, none:
// they may not be known yet.
template <class H, bool Sole>
__device__ __forceinline__ int early_steps(const Params& p, const Item<H::N, H::Strips>& item) {
  using P = typename H::Type;
  if (Sole || p.a.picks != nullptr) return 0;
  return min(H::kEarly, item.template last_step<P>(p) - item.template first_step<P>(p));
}

// Brings stages. Items: those of the block, one after the other; the stream of W runs ahead of the rows of x, which may
// have to be waited for.
template <class H, class Items>
struct Loader {
  using P = typename H::Type;
  static constexpr int N = H::N, Strips = H::Strips;
  using ItemOf = Item<N, Strips>;
  unsigned char* ring;
  Shared<H>& shared;
  int thread;  // of the loaders
  Items items;
  Turn<H::kStages> fill = {}, told = {};
  int untold = 0;  // stages whose rows of x may not be there yet

  // The strips of an item, as far as there are any.
  struct Weights {
    const unsigned char* at;
    int64_t strip_bytes;
    int count;
    bool once;
  };
  // What thread 0 knows of the stream of W: where it is, and how many stages are under way before their turn.
  Turn<H::kStages> fed = {};
  Weights w = {};
  int step = 0, end = 0, ahead = 0;
  bool held = false;  // behind the item's steps is something by depth, which is not known early

  static __device__ __forceinline__ Weights weights(const Params& p, const ItemOf& item, const void* w,
                                                    int64_t strip_bytes) {
    return {static_cast<const unsigned char*>(w) + item.strip * strip_bytes, strip_bytes,
            Strips == 1 ? 1 : int(min(int64_t(Strips), p.strips - item.strip)), p.row_tiles == 1};
  }

  template <class T>
  __device__ __forceinline__ void fetch(int at, const Weights& from_strips, int64_t number) {
    using S = Stage<T, N, Strips>;
    unsigned char* slot = ring + at * H::kSlot;
    Barrier* full = shared.full + at;
    barrier_expect(full, from_strips.count * S::kStepBytes);
    for (int i = 0; i < from_strips.count; i++) {
      const unsigned char* from = from_strips.at + i * from_strips.strip_bytes + number * S::kStepBytes;
      if (from_strips.once) bulk_copy_once(slot + i * kTileBytes, from, kTileBytes, full);
      else bulk_copy(slot + i * kTileBytes, from, kTileBytes, full);
      if constexpr (S::kScaleBytes != 0) bulk_copy(slot + S::kScales, from + kTileBytes, S::kScaleBytes, full);
    }
  }

  // ---- thread 0: the stream of W ----

  // Whether there is a step to ask for.
  __device__ __forceinline__ bool ready() {
    while (step == end) {
      if (held || !items.next()) return false;
      const Params& p = *items.product;
      if (p.a.weight != nullptr) {
        w = weights(p, items.item, p.a.weight, p.strip_bytes);
        step = items.item.template first_step<P>(p);
        end = items.item.template last_step<P>(p);
      }
      held = p.a.weight == nullptr || items.item.adds_by_depth(p);
    }
    return true;
  }
  // Asks for the next step; its stage is empty.
  __device__ __forceinline__ void feed() {
    fetch<P>(fed.at, w, step++);
    fed.next();
    ahead++;
  }
  // Asks for at most `most` steps, as far as stages are empty.
  __device__ __forceinline__ void run_ahead(int most) {
    for (; most > 0 && ready() && barrier_done(shared.empty + fed.at, fed.phase ^ 1); most--) feed();
  }
  // Waits for what is under way and will not be used.
  __device__ __forceinline__ void drain() {
    Turn<H::kStages> at = fill;
    const int stages = ahead;
    skip(stages);
    for (int i = 0; i < stages; i++, at.next()) barrier_wait(shared.full + at.at, at.phase);
  }

  // ---- all loaders ----

  template <int Pending>
  __device__ __forceinline__ void tell() {
    copy_wait<Pending>();
    proxy_fence();
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive(shared.full + told.at);
    told.next();
  }
  __device__ __forceinline__ void tell_all() {
    for (; untold > 0; untold--) tell<0>();
  }

  // Stages of W that are under way of an item come without rows of x; the rest of the item is left out.
  __device__ __forceinline__ void skip(int stages) {
    for (; stages > 0; stages--) {
      if (thread % 32 == 0) barrier_arrive(shared.full + fill.at);
      fill.next();
      told.next();
      ahead--;
    }
    step = end;
    held = false;
  }

  template <class T>
  __device__ __forceinline__ void bring_x(const Columns& x, int64_t number) {
    T::template load_x<N, H::kLoaders>(Stage<T, N, Strips>::of(ring + fill.at * H::kSlot), x, number, thread);
    copy_commit();
    fill.next();
    if (untold == H::kBehind) tell<H::kBehind>();
    else untold++;
  }

  // Steps of the item's W.
  __device__ __forceinline__ void stream(const Columns& x, int64_t begin, int64_t until) {
#pragma unroll 1
    for (int64_t number = begin; number < until; number++) {
      barrier_wait(shared.empty + fill.at, fill.phase ^ 1);
      if (thread == 0) {
        if (ahead == 0 && ready()) feed();
        ahead--;
      }
      bring_x<P>(x, number);
      if (thread == 0) run_ahead(2);
    }
  }

  // D_d x, depth by depth.
  template <class T>
  __device__ __forceinline__ void stream_by_depth(const Params& p, const ItemOf& item, int64_t begin, int64_t until) {
    const Columns x{static_cast<const char*>(p.d.x), p.d.x_bytes, p.d.k, shared.load_row};
    const int* depths = shared.load_depth;
#pragma unroll 1
    for (int depth = next_depth(depths, N, -1); depth != INT_MAX; depth = next_depth(depths, N, depth)) {
      const Weights d = weights(p, item, static_cast<const char*>(p.d.weight) + depth * p.d.depth_bytes,
                                p.d.strip_bytes);
#pragma unroll 1
      for (int64_t number = begin; number < until; number++) {
        barrier_wait(shared.empty + fill.at, fill.phase ^ 1);
        if (thread == 0) {
          fetch<T>(fill.at, d, number);
          fed.next();
        }
        bring_x<T>(x, number);
      }
    }
  }

  // Sole: there is no W, all of z is D_d x.
  template <bool Sole>
  __device__ __forceinline__ void bring(const Params& p, const ItemOf& item, int64_t count) {
    group_barrier(2, H::kLoaders);
    for (int i = thread; i < N; i += H::kLoaders) {
      shared.load_row[i] = p.row(item.first, i, count);
      shared.load_depth[i] = p.depth(shared.load_row[i]);
    }
    group_barrier(2, H::kLoaders);
    if constexpr (Sole) {
      if (thread == 0) ready();  // the stream of W has come to this item, too
      using D = typename P::Lora;
      for_splits<D>(p, item, [&](int begin, int until) { stream_by_depth<D>(p, item, begin, until); });
      held = false;
    } else {
      const Columns x{static_cast<const char*>(p.a.x), p.a.x_bytes, p.a.k, shared.load_row};
      stream(x, item.template first_step<P>(p), item.template last_step<P>(p));
      if (item.adds_by_depth(p)) {
        stream_by_depth<typename P::Lora>(p, item, 0, p.d.steps);
        held = false;
      }
    }
  }
};

template <class H, class End>
struct Multiplier {
  using P = typename H::Type;
  static constexpr int N = H::N, Strips = H::Strips;
  using ItemOf = Item<N, Strips>;
  unsigned char* ring;
  Shared<H>& shared;
  const End& end;
  Turn<H::kStages> turn = {};

  __device__ __forceinline__ void release(int stage) {
    if (threadIdx.x % 32 == 0) barrier_arrive(shared.empty + stage);
  }

  // The next stages are not used.
  __device__ __forceinline__ void skip(int stages) {
    for (; stages > 0; stages--) {
      barrier_wait(shared.full + turn.at, turn.phase);
      __syncwarp();
      release(turn.at);
      turn.next();
    }
  }

  // acc += the next steps that the loaders bring.
  template <class T>
  __device__ __forceinline__ void multiply(float (&acc)[N / 2], int steps) {
    int before = 0;
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
      barrier_wait(shared.full + turn.at, turn.phase);
      T::template step<N>(acc, Stage<T, N, Strips>::of(ring + turn.at * H::kSlot, int(threadIdx.x / 128)));
      if constexpr (T::kWide) {
        wgmma_wait<1>();
        if (i > 0) release(before);
        before = turn.at;
      } else {
        __syncwarp();
        release(turn.at);
      }
      turn.next();
    }
    if constexpr (T::kWide) {
      wgmma_wait<0>();
      if (steps > 0) release(before);
    }
  }

  template <class T>
  __device__ __forceinline__ void multiply_by_depth(float (&z)[N / 2], int steps) {
    const int* depths = shared.depth;
#pragma unroll 1
    for (int depth = next_depth(depths, N, -1); depth != INT_MAX; depth = next_depth(depths, N, depth)) {
      float chain[N / 2] = {};
      multiply<T>(chain, steps);
#pragma unroll
      for (int i = 0; i < N / 2; i++)
        if (depths[column_of(i)] == depth) z[i] += chain[i];
    }
  }

  // z of an item of several parts, from the sums of all; false in all but the last to come.
  template <bool Sole>
  __device__ __forceinline__ bool merge(const Params& p, const ItemOf& item, float (&z)[N / 2]) {
    float* sums = p.partials + item.place * p.slots() * (N / 2) * H::kConsumers + threadIdx.x;
    const auto slot = [&](int part, int i) { return sums + (part * (N / 2) + i) * H::kConsumers; };
#pragma unroll
    for (int i = 0; i < N / 2; i++) *slot(item.part, i) = z[i];
    if constexpr (!Sole)
      if (item.adds_by_depth(p)) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) z[i] = 0;
        multiply_by_depth<typename P::Lora>(z, int(p.d.steps));
#pragma unroll
        for (int i = 0; i < N / 2; i++) *slot(p.parts, i) = z[i];
      }
    if (!last_group(p.tickets + item.place, unsigned(p.parts), &shared.ticket, 1, H::kConsumers)) return false;
#pragma unroll
    for (int i = 0; i < N / 2; i++) z[i] = 0;
    for (int part = 0; part < p.parts; part++)
#pragma unroll
      for (int i = 0; i < N / 2; i++) z[i] += load_fresh(slot(part, i));
    scale<Sole>(p, item, z);
    if (p.slots() > p.parts)
#pragma unroll
      for (int i = 0; i < N / 2; i++) z[i] += load_fresh(slot(p.parts, i));
    return true;
  }

  template <bool Sole>
  __device__ __forceinline__ void scale(const Params& p, const ItemOf& item, float (&z)[N / 2]) {
    if constexpr (P::kScaled && !Sole) {
      static_assert(Strips == 1, "scales of one strip");
      const float* scales = reinterpret_cast<const float*>(static_cast<const unsigned char*>(p.a.weight) +
                                                           item.strip * p.strip_bytes + p.steps * int64_t(kTileBytes));
#pragma unroll
      for (int i = 0; i < N / 2; i++) z[i] *= scales[strip_row(i)];
    }
  }

  // Sums of an item, and what becomes of them; Sole as in Loader.
  template <bool Sole>
  __device__ __forceinline__ void compute(const Params& p, const ItemOf& item, int64_t count) {
    float z[N / 2] = {};
    group_barrier(1, H::kConsumers);  // all are done with the item before
    for (int i = int(threadIdx.x); i < N; i += H::kConsumers) {
      shared.row[i] = p.row(item.first, i, count);
      shared.depth[i] = p.depth(shared.row[i]);
    }
    group_barrier(1, H::kConsumers);
    if constexpr (N == 256) {  // one split, no D
      multiply<P>(z, p.steps);
#pragma unroll
      for (int i = 0; i < N / 2; i++) z[i] += 0.f;  // what a sum with the next split's does to a negative zero
    } else {
      for_splits<std::conditional_t<Sole, typename P::Lora, P>>(p, item, [&](int begin, int end) {
        if constexpr (Sole) {
          multiply_by_depth<typename P::Lora>(z, end - begin);
        } else {
          float chain[N / 2] = {};
          multiply<P>(chain, end - begin);
#pragma unroll
          for (int i = 0; i < N / 2; i++) z[i] += chain[i];
        }
      });
      if (p.parts > 1) {
        if (!merge<Sole>(p, item, z)) return;
      } else {
        scale<Sole>(p, item, z);
        if constexpr (!Sole)
          if (item.adds_by_depth(p)) multiply_by_depth<typename P::Lora>(z, int(p.d.steps));
      }
    }
    write(p, item, z);
  }

  __device__ __forceinline__ void write(const Params& p, const ItemOf& item, const float (&z)[N / 2]) {
    const int warpgroup = int(threadIdx.x / 128);
    float* sums = shared.z[warpgroup];
    // One copy of the end, but where z's registers are needed as soon as they are written.
#pragma unroll (N == 256 ? 2 : 1)
    for (int first = 0; first < N; first += H::kColumns) {
      if (first > 0) group_barrier(3 + warpgroup, 128);  // all have read what was there
#pragma unroll
      for (int part = 0; part < N; part += H::kColumns)
        if (part == first)
#pragma unroll
          for (int i = 0; i < H::kColumns / 2; i++) sums[column_of(i) * kPitch + strip_row(i)] = z[part / 2 + i];
      group_barrier(3 + warpgroup, 128);
      end(p.a, item.strip + warpgroup, item.first, sums, shared.row + first, H::kColumns, int(threadIdx.x % 128));
    }
  }
};

template <class H, bool Sole>
__device__ __forceinline__ void load_batch(unsigned char* ring, Shared<H>& shared, const Batch& batch) {
  Loader<H, BatchItems<H>> loader{ring, shared, int(threadIdx.x) - H::kConsumers, {batch}};
  if (!Sole && batch.product[0].a.picks == nullptr && loader.thread == 0 && loader.ready())
    for (int i = early_steps<H, Sole>(*loader.items.product, loader.items.item); i > 0; i--) loader.feed();
  dependents_wait();
  loader.items.live_known = true;
  bool first = true;
#pragma unroll 1
  for (BatchItems<H> items{batch}; items.next(); first = false) {
    const Params& p = *items.product;
    const int64_t count = p.count();
    if (items.item.first < count) loader.template bring<Sole>(p, items.item, count);
    else if (first) loader.skip(early_steps<H, Sole>(p, items.item));
  }
  loader.tell_all();
}

template <class H, bool Sole, class End>
__device__ __forceinline__ void multiply_batch(unsigned char* ring, Shared<H>& shared, const Batch& batch,
                                               const End& end) {
  Multiplier<H, End> multiplier{ring, shared, end};
  dependents_wait();
  bool first = true;
#pragma unroll 1
  for (BatchItems<H> items{batch}; items.next(); first = false) {
    const Params& p = *items.product;
    const int64_t count = p.count();
    if (items.item.first < count) multiplier.template compute<Sole>(p, items.item, count);
    else if (first) multiplier.skip(early_steps<H, Sole>(p, items.item));
  }
}

// End: what becomes of the sums, see Finish.
template <class H, bool Sole, class End>
__global__ void __launch_bounds__(H::kThreads, 1)
    linear_stream(const __grid_constant__ Batch batch, const __grid_constant__ End end) {
  unsigned char* ring = shared_memory<unsigned char>(H::kRing);
  Shared<H>& shared = make_ring<H>();
  dependents_go();
  if (threadIdx.x >= H::kConsumers) {
    if constexpr (H::Strips == 2) give_registers<88>();
    load_batch<H, Sole>(ring, shared, batch);
  } else {
    if constexpr (H::Strips == 2) take_registers<208>();
    multiply_batch<H, Sole>(ring, shared, batch, end);
  }
}

}  // namespace
}  // namespace fth::linear
