// Attention of rows over lists of entries in a pool, or over dense K,V with a depth mask:
//   out = sum_k softmax_k(scale * q.k + bias) v   over the items a row sees.
//
// A row's bits are a function of the row. A list is read in *chunks* of 64 items counted from its item 0; each chunk is
// one step of the online softmax, and a chunk is the same arithmetic whether it is a page of the pool read in place or
// items gathered from anywhere. Eight chunks make a *piece* with its own (max, sum, out); pieces merge in list order.
// What a row sees of a chunk is one 64-bit mask. K and V of items it does not see reach nothing, not even as 0 * V.
//
// With bf16 K,V every instruction set rounds the scaled query and the softmax weights to bf16 before the products (the
// sum of the weights takes them unrounded). Sums are fp32. Vector targets count scores in powers of two: log2(e) is
// part of the query's scale.
//
// With int8 K,V the vector targets round the scaled query to 16 bits, 32767 being its largest element, and sums of
// products are exact; K's scales multiply scores, V's multiply softmax weights, which are then rounded to 16 bits,
// 32767 being the largest of V's scales. CUDA devices widen int8 to bf16, which is exact, and round as with bf16 K,V.
// Either way no product is less exact than bf16's.
#pragma once
#include <cstddef>
#include <cstdint>

#include "fathom/fathom.h"
#include "../kv/kv.h"

namespace fth::attention {

constexpr int64_t kChunk = kv::kPage;
constexpr int64_t kPiece = 8 * kChunk;
constexpr int32_t kVectors = 30;  // most query vectors (rows x heads) of a tile: five register blocks of six

struct Args {
  const fth_row* rows;
  int64_t heads, kv_heads, head_dim;
  float scale;
  const float* q;  // rows of [heads, head_dim]
  int64_t q_stride;
  void* out;       // rows of [heads, head_dim], f32 or bf16
  int64_t out_stride;
  bool out_bf16;
  int32_t kv_type;
  bool masked;     // which of the two forms

  // List form.
  const int32_t* entries;
  const int32_t* entry_position;  // or null: an item's index in its list
  kv::Pool pool;
  int64_t layer;

  // Mask form: strides in elements, the list is the positions of rows[i].sequence.
  const void* k;
  const void* v;
  int64_t sequence_stride, token_stride, head_stride;
  const int32_t* reach;  // [sequences, tokens]; item t counts iff reach >= depth
  int64_t tokens;

  int32_t bias_kind, bias_center;
  int64_t bias_width;
  const float* bias;
};

// Rows [row, row + rows) read one list; together they see nothing outside its items [begin, end).
struct Tile {
  int32_t row, rows, begin, end;
};

// A tile's heads are handled in parts: the heads of one kv head, split evenly if they are more than kVectors.
static inline int64_t parts_per_group(const Args& a) { return (a.heads / a.kv_heads + kVectors - 1) / kVectors; }
static inline int64_t parts(const Args& a) { return a.kv_heads * parts_per_group(a); }

// Softmax state of a tile's query vectors: max (of log2(e) * score) [kLanes], sum [kLanes], out [vectors][padded
// head_dim].
constexpr int64_t kLanes = 32;
static inline int64_t state_floats(const Args& a, int64_t vectors) {
  return 2 * kLanes + vectors * kv::padded(a.head_dim);
}

// Floats between query vectors: not a power of two, so that they spread over a cache's sets.
constexpr int64_t kQueryStride = kv::kMostHeadDim + 16;

// What one thread needs.
struct alignas(64) Workspace {
  float query[kVectors * kQueryStride];            // scaled, in the form that the products read
  float weight[kVectors * kChunk];                 // scores, then softmax weights
  float bias[kVectors * kChunk];
  int32_t position[kChunk];                        // of a chunk's keys
  float sum[kVectors * 16];                        // lanes of the running sums
  float factor[kLanes];                            // what a chunk shrinks the earlier sums by
  float piece[2 * kLanes + kVectors * kv::kMostHeadDim];
  float total[2 * kLanes + kVectors * kv::kMostHeadDim];
  uint32_t k_tile[kChunk * kv::kMostHeadDim];      // gathered chunk, laid out as a page's
  uint32_t v_tile[kChunk * kv::kMostHeadDim];
  float scales[2 * kChunk];                        // int8: of a gathered chunk's keys, K's and V's
  float unit[2 * kLanes];                          // int8: of queries and of weights
};

// All of a tile's part: writes the output.
using Whole = void(const Args&, const Tile&, int64_t part, Workspace&);
// One piece of it: writes a state.
using Piece = void(const Args&, const Tile&, int64_t part, int64_t piece, Workspace&, float* state);
// Merges `pieces` states, `stride` floats apart, in order into `total`; `first`: total holds nothing yet.
using Merge = void(const Args&, const Tile&, int64_t part, const float* states, int64_t stride, int64_t pieces,
                   bool first, float* total);
// Writes the output from a total.
using Finish = void(const Args&, const Tile&, int64_t part, const float* total);

namespace scalar { Whole whole; }
namespace avx2 { Whole whole; Piece piece; Merge merge; Finish finish; }
namespace avx512 { Whole whole; Piece piece; Merge merge; Finish finish; }
namespace avx512bf16 { Whole whole; Piece piece; }  // bf16 K,V with AVX512-BF16 dot products
namespace avx512vnni { Whole whole; Piece piece; }  // int8 K,V with AVX512-VNNI dot products
namespace cuda {  // all pointers on the device
size_t scratch_bytes(const Args&, int64_t count, int32_t multiprocessors);
// Writes what run reads in `scratch`: who reads what, for all layers whose rows have these lists.
void plan(const Args&, int64_t count, int32_t multiprocessors, char* scratch, const gpu::Queue&);
void run(const Args&, int64_t count, int32_t multiprocessors, char* scratch, const gpu::Queue&);
}

}  // namespace fth::attention
