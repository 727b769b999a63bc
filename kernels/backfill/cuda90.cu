// A strip of W is 64 dimensions of one head of K or V, so the end of a strip can turn them, round them and store them
// where they belong: each column (row of x) is a run of 64 elements of a row of the pool. Sums are read twice, as a
// pair's own element and as its partner, and no two lanes wait for one another, but for int8's scale.
//
// Floor: the larger of the bytes of W, x and the pool's rows and the operations; 4096 rows of 960 to 6400 are 50 GFLOP,
// 65 us, beside 80 MB, 19 us. The product's own tiles give 0.65 of its ceiling and 7 rounds of blocks are full to 0.87;
// the end of a 128 x 256 tile takes some 2.5 us, in part of which the ring fills again: 0.45.
#include "backfill/backfill.h"
#include "kv/cuda_write.h"
#include "linear/cuda_start.h"

namespace fth::backfill {
namespace {

using namespace gpu;

// A row of W among those of its head: its dimension, and the pair that it is in.
struct Place {
  int dim;
  int pair;     // -1: it does not turn
  bool second;  // of the pair
  int partner;  // how far away the other is
};
__host__ __device__ __forceinline__ Place place_of(const Turn& turn, int place) {
  const int pairs = int(turn.pairs);
  if (place >= 2 * pairs) return {place, -1, false, 0};
  if (turn.interleaved) return {place, place / 2, place % 2 != 0, place % 2 != 0 ? -1 : 1};
  const int before = place / kTileRows * (kTileRows / 2);  // pairs of the strips before
  const int here = pairs - before < kTileRows / 2 ? pairs - before : kTileRows / 2, at = place % kTileRows;
  if (at < here) return {before + at, before + at, false, here};
  return {pairs + before + at - here, before + at - here, true, -here};
}

struct Store {
  cuda::Stores to;
  kv::cuda::Rows pool;   // of layer 0
  int64_t layer_bytes;
  int strips, of_head;  // strips of K or V of a target, of a head

  // The strip's columns into the pages of its layer. `place`: of the strip's first row of W in its head. Of: elements
  // of a lane, to a column: four of int8, else two.
  template <int Of>
  __device__ __forceinline__ void store(const float* bias, const float* z, const int* rows, int columns, int thread,
                                        const kv::cuda::Rows& pages, int64_t head, int64_t depth, int place,
                                        bool v) const {
    constexpr int kLanes = kTileRows / Of;
    constexpr int kAtOnce = 16 / Of;  // columns of a lane, which waits for all of their loads together
    const int at = thread % kLanes * Of;
    const bool f32 = to.pool.type == FTH_F32;
    Place places[Of];
    float own_bias[Of], partner_bias[Of];
#pragma unroll
    for (int i = 0; i < Of; i++) {
      places[i] = v ? Place{place + at + i, -1, false, 0} : place_of(to.turn, place + at + i);
      own_bias[i] = bias[at + i];
      partner_bias[i] = bias[at + i + places[i].partner];
    }
#pragma unroll 1
    for (int begin = thread / kLanes; begin < columns; begin += 128 / kLanes * kAtOnce) {
      int32_t entry[kAtOnce];
      float cosine[kAtOnce][Of], sine[kAtOnce][Of];
#pragma unroll
      for (int c = 0; c < kAtOnce; c++) {
        const int column = begin + c * (128 / kLanes);
        const int row = column < columns ? rows[column] : -1;
        entry[c] = row < 0 ? -1 : to.entry[row * to.depths + depth];
        const float* table = to.table + row * 2 * to.turn.pairs;
#pragma unroll
        for (int i = 0; i < Of; i++) {
          const bool turns = row >= 0 && places[i].pair >= 0;
          cosine[c][i] = turns ? table[places[i].pair] : 0.f;
          sine[c][i] = turns ? table[to.turn.pairs + places[i].pair] : 0.f;
        }
      }
#pragma unroll
      for (int c = 0; c < kAtOnce; c++) {
        const int column = begin + c * (128 / kLanes);
        float x[Of];
#pragma unroll
        for (int i = 0; i < Of; i++) {
          x[i] = 0;
          if (entry[c] < 0) continue;
          const float* sum = z + column * linear::kPitch + at + i;
          x[i] = sum[0] + own_bias[i];
          if (places[i].pair < 0) continue;
          const float by_sine = __fmul_rn(sum[places[i].partner] + partner_bias[i], sine[c][i]);
          x[i] = __fadd_rn(__fmul_rn(x[i], cosine[c][i]), places[i].second ? by_sine : -by_sine);
        }
        float steps = 0;
        if constexpr (Of == 4) {
          uint32_t most = 0;
          for (int i = 0; i < Of; i++) most = max(most, kv::size_of(x[i]));
          for (int i = kLanes / 2; i > 0; i /= 2) most = max(most, __shfl_xor_sync(~0u, most, i));
          const kv::Scaling scaling(most);
          steps = scaling.steps;
          if (at == 0 && entry[c] >= 0) pages.scale(head, entry[c])[v ? kv::kPage : 0] = scaling.scale;
        }
        if (entry[c] < 0) continue;
        char* side = pages.row(head, entry[c]) + (v ? pages.v_offset : 0);
        const int dim = places[0].dim;
        if constexpr (Of == 4) *reinterpret_cast<uint32_t*>(side + dim) = kv::word_of<int8_t>(x, steps);
        else if (f32) reinterpret_cast<float2*>(side)[dim / 2] = make_float2(x[0], x[1]);
        else reinterpret_cast<uint32_t*>(side)[dim / 2] = kv::word_of<bf16>(x, 0);
      }
    }
  }

  __device__ __forceinline__ void operator()(const linear::Args& product, int64_t strip, int64_t, const float* z,
                                             const int* rows, int columns, int thread) const {
    if (strip * kTileRows >= product.n) return;
    const float* bias = product.bias + strip * kTileRows;
    const int side = int(strip) / strips, target = side / 2, in_side = int(strip) % strips;
    const int head = in_side / of_head, place = in_side % of_head * kTileRows;
    const int layers = int(to.pool.layers), depth = target / layers;
    kv::cuda::Rows pages = pool;
    pages.data += target % layers * layer_bytes;
    const bool v = side % 2 != 0;
    if (to.pool.type == FTH_I8) store<4>(bias, z, rows, columns, thread, pages, head, depth, place, v);
    else store<2>(bias, z, rows, columns, thread, pages, head, depth, place, v);
  }
};

}  // namespace

// Two neighbours of a strip are neighbours of the head, and the first is even: elements are stored two by two, int8 of
// one strip four by four.
bool cuda::takes(int32_t weight_type, const kv::Pool& pool, const Turn& turn) {
  if (weight_type == FTH_F32 || pool.head_dim % kTileRows != 0) return false;
  if (pool.head_dim == kTileRows) return true;
  return pool.type != FTH_I8 && (turn.interleaved || turn.pairs % 2 == 0);
}

int cuda::dim_at(const Turn& turn, int place) { return place_of(turn, place).dim; }

void cuda::product(const linear::Args& product, const Stores& to, const linear::Workspace& space, Stream stream) {
  const kv::cuda::Rows pool = kv::cuda::rows_of(to.pool, 0);
  const int of_head = int(to.pool.head_dim / kTileRows), strips = int(to.pool.kv_heads) * of_head;
  linear::Batch batch;
  batch.product[0] = linear::params_of({product.type, product, {}});
  batch.count = 1;
  linear::start_stream(batch, product.type,
                       Store{to, pool, pool.head_stride * to.pool.kv_heads, strips, of_head}, space, stream);
}

}  // namespace fth::backfill
