// Which of Hopper's kernels multiplies some products of one type, for anything that becomes of the sums.
#pragma once
#include "cuda_cut.h"
#include "cuda_stream.h"

namespace fth::linear {
namespace {

template <class P, int N, int Strips, bool Sole, class End>
void start_stream(Batch& batch, const End& end, Workspace space, Stream stream) {
  using H = Shape<P, N, Strips>;
  int64_t items = 0;
  for (int i = 0; i < batch.count; i++) batch.end[i] = items += cut(batch.product[i], N, Strips, space);
  const int64_t blocks = clamp(items, 1, space.multiprocessors);
  launch(linear_stream<H, Sole, End>,
         {dim3(unsigned(blocks)), dim3(H::kThreads), size_t(H::kBytes), false, true}, stream, batch, end);
}

template <class P, bool Sole, class End>
void start_stream(Batch& batch, const End& end, const Workspace& space, Stream stream) {
  int64_t rows = 0;
  for (int i = 0; i < batch.count; i++)
    if (batch.product[i].a.picks == nullptr && batch.product[i].a.count > rows) rows = batch.product[i].a.count;
  if (rows <= 8) return start_stream<P, 8, 1, Sole>(batch, end, space, stream);
  if (rows <= 16) return start_stream<P, 16, 1, Sole>(batch, end, space, stream);
  if (rows <= 32) return start_stream<P, 32, 1, Sole>(batch, end, space, stream);
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
        return start_stream<P, 256, 2, false>(batch, end, space, stream);
      if (rows > 128 && middle >= space.multiprocessors)
        return start_stream<P, 128, 2, false>(batch, end, space, stream);
    }
    if (rows > 64) return start_stream<P, 128, 1, false>(batch, end, space, stream);
  }
  start_stream<P, 64, 1, Sole>(batch, end, space, stream);
}

// W of `type`, which is not fp32.
template <class End>
void start_stream(Batch& batch, int32_t type, const End& end, const Workspace& space, Stream stream) {
  switch (type) {
    case FTH_BF16: return start_stream<Bf16Wide, false>(batch, end, space, stream);
    case FTH_F8_E4M3: return start_stream<F8Wide, false>(batch, end, space, stream);
    case FTH_I8: return start_stream<Quantised<FTH_I8, Bf16Wide>, false>(batch, end, space, stream);
    case FTH_Q8_0: return start_stream<Quantised<FTH_Q8_0, Bf16Wide>, false>(batch, end, space, stream);
    default: return start_stream<Quantised<FTH_Q4_0, Bf16Wide>, false>(batch, end, space, stream);
  }
}

}  // namespace
}  // namespace fth::linear
