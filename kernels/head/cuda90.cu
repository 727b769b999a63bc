// Statistics with the products: a chunk is a strip of W, whose sums become partials where they are, in shared memory,
// and no logit is ever stored. Floor: the bytes of W, at the speed of memory, up to some 200 rows. The end of a strip
// takes a thread 16 exponentials and comparisons for every 32 rows, 0.7 us with 64 of them, while the ring goes on to
// fill: 0.9 of copy, but for some 6 us of norm, start, end and merge.
#include "cuda_statistics.h"
#include "linear/cuda_start.h"

namespace fth::head {
namespace {

static_assert(cuda::kChunk == kTileRows && kPitch == linear::kPitch, "a strip is not a chunk");

struct Summarise {
  cuda::Piece piece;

  __device__ __forceinline__ void operator()(const linear::Args& product, int64_t strip, int64_t, const float* z,
                                             const int* rows, int columns, int thread) const {
    const Args& a = piece.args;
    const int64_t first = strip * cuda::kChunk, left = product.n - first;
    if (left <= 0) return;
    const int chosen = int(piece.chosen);
    for (int i = thread; i < columns * chosen; i += 128) {
      const int64_t row = rows[i / chosen], c = row * chosen + i % chosen;
      const int64_t at = row < 0 ? -1 : piece.chosen_id[c] - first;
      if (at >= 0 && at < cuda::kChunk) piece.chosen_logit[c] = capped(a, z[i / chosen * kPitch + at]);
    }
    partials(a, z, columns, thread, 128, [&](int column) {
      const int64_t row = rows[column];
      return row < 0 ? Chunk{} : Chunk{left, first, a.partial + row * a.partial_stride + strip};
    });
  }
};

}  // namespace

void cuda::product(const linear::Args& product, const Piece& piece, const linear::Workspace& space, Stream stream) {
  linear::Batch batch;
  batch.product[0] = linear::params_of({product.type, product, {}});
  batch.count = 1;
  linear::start_stream(batch, product.type, Summarise{piece}, space, stream);
}

}  // namespace fth::head
