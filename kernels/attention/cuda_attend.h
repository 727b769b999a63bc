// Attention of rows over lists or dense K,V (attention.h) by the threads of a block. Query vectors are rows of one list
// times heads of one kv head; a block reads K and V once for all of its own: by chunks of 64 keys, which stream into a
// ring of stages in shared memory entry by entry. Two kinds give the same bits:
//   narrow (decode)   16 vectors; each of four warps computes the scores of 16 keys, all share them, and each computes
//                     the outputs of a quarter of the dims. The last block of a list to finish joins its pieces.
//   wide   (prefill)  16 vectors of its own for each of eight warps; one block reads the whole list.
#pragma once
#include <algorithm>

#include "attention/cuda_plan.h"
#include "attention/cuda_products.h"
#include "cuda/grid.h"
#include "kv/cuda.h"

namespace fth::attention {
namespace {

constexpr int kWideWarps = 8;
constexpr int kPieceKeys = int(kPiece), kChunkKeys = int(kChunk), kPieceChunks = kPieceKeys / kChunkKeys;
constexpr int kScoreStride = kChunkKeys + 8;  // floats between rows of scores: their accesses meet no bank twice

struct Params {
  Args a;
  kv::cuda::Rows pool;  // list form: of the layer
  bool aligned;         // mask form: every vector begins at a multiple of 16 bytes
  int32_t parts;         // of a kv head's heads
  int64_t state_floats;  // of all vectors of an item and part
  const Item *items, *wide_items;
  const int32_t* item_count;  // [2]
  float* states;
  unsigned* tickets;
};

// Room: most bytes of the stages.
template <class T, int Dim, bool Wide, int Room = 128 << 10>
struct Shared {
  using P = Products<T, Dim>;
  static constexpr int kStageBytes = 2 * P::kSideBytes;
  static constexpr int kStages = std::min(kStageBytes >= 128 << 10 ? 1 : kStageBytes >= 64 << 10 ? 2
                                          : kStageBytes >= 32 << 10 ? 3 : 4, Room / kStageBytes);
  static constexpr int kWarps = Wide ? kWideWarps : 4, kThreads = kWarps * 32;
  static constexpr int kVectors = Wide ? kWarps * kTileVectors : kTileVectors;
  static constexpr int kTiles = Dim / (Wide ? 1 : kWarps) / 8;  // of 8 dims, whose outputs a warp computes

  unsigned char stage[kStages][kStageBytes];
  char query[kVectors * P::kQueryBytes];
  float total[Wide ? kTiles * 4 : 1][kThreads];  // each thread's outputs of the pieces so far
  float scores[Wide ? 1 : kTileVectors * kScoreStride];
  float weights[sizeof(T) == 4 ? kTileVectors * kScoreStride : 1];
  // Of the piece's keys: entry, or position in the sequence; -1: no row sees it.
  int32_t key[kPieceKeys];
  int32_t reach[kPieceKeys];
  int32_t position[kPieceKeys];
  float scale[2][sizeof(T) == 1 ? kPieceKeys : 1];
  uint32_t any[kPieceKeys / 32], all[kPieceKeys / 32];  // bit of a key: some row sees it, all rows do
  unsigned flag;
};

// The rows of an item and heads of a part, from vector to (row, head).
struct Vectors {
  int row, rows, head, heads;  // the first ones, and how many

  __device__ __forceinline__ int count() const { return rows * heads; }
  __device__ __forceinline__ int row_of(int vector) const { return row + min(vector / heads, rows - 1); }
  __device__ __forceinline__ int head_of(int vector) const { return head + vector % heads; }
};

__device__ __forceinline__ bool sees(const fth_row& row, int item) {
  const int back = row.visible - 1 - item;
  return item >= row.start && back >= 0 && (back >= 64 || (row.tree >> back & 1));
}

// Where the keys of a list lie, for one kv head.
struct Source {
  const char *k, *v;
  int64_t page_stride, row_stride;  // bytes

  __device__ __forceinline__ int64_t offset(int key) const {
    return key / kChunkKeys * page_stride + key % kChunkKeys * row_stride;
  }
};

template <class T>
__device__ __forceinline__ Source source_of(const Params& p, const Item& item, int kv_head) {
  if (!p.a.masked) {
    const char* k = p.pool.row(kv_head, 0);
    return {k, k + p.pool.v_offset, p.pool.page_stride, p.pool.row_bytes};
  }
  const int64_t first = p.a.rows[item.row].sequence * p.a.sequence_stride + kv_head * p.a.head_stride;
  return {static_cast<const char*>(p.a.k) + first * sizeof(T), static_cast<const char*>(p.a.v) + first * sizeof(T),
          p.a.token_stride * kChunkKeys * int64_t(sizeof(T)), p.a.token_stride * int64_t(sizeof(T))};
}

// Items of the list that all rows of an item see for sure; with `reach`, if it is at least `depth`.
struct Sure {
  int begin, end, depth;
};
__device__ __forceinline__ Sure sure_of(const fth_row* rows, int count) {
  Sure s{0, INT32_MAX, 0};
  for (int i = 0; i < count; i++) {
    s.begin = max(s.begin, rows[i].start);
    s.end = min(s.end, rows[i].tree == ~uint64_t(0) ? rows[i].visible : rows[i].visible - 64);
    s.depth = max(s.depth, rows[i].depth);
  }
  return s;
}

// What is known of a piece's keys before K and V are read.
template <class T, int Dim, bool Wide, int Room>
__device__ __forceinline__ void look_at_keys(const Params& p, Shared<T, Dim, Wide, Room>& s, const Item& item,
                                             const Sure& sure, int piece, int kv_head) {
  const Args& a = p.a;
  for (int key = int(threadIdx.x); key < kPieceKeys; key += Shared<T, Dim, Wide, Room>::kThreads) {
    const int at = piece * kPieceKeys + key;
    bool any = false, all = false;
    int32_t name = -1, reach = 0;
    if (at >= item.begin && at < item.end) {
      all = true;
      if (a.masked) reach = a.reach[a.rows[item.row].sequence * a.tokens + at];
      any = at >= sure.begin && at < sure.end && (!a.masked || reach >= sure.depth);
      const bool sure_of_all = any;
      for (int r = 0; r < item.rows && !sure_of_all; r++) {
        const fth_row& row = a.rows[item.row + r];
        const bool seen = sees(row, at) && (!a.masked || reach >= row.depth);
        any |= seen;
        all &= seen;
      }
      if (any) name = a.masked ? at : a.entries[a.rows[item.row].list + at];
    }
    s.key[key] = name;
    if (a.masked) s.reach[key] = reach;
    if (a.bias_kind == FTH_BIAS_RELATIVE)
      s.position[key] = name < 0 || a.masked || a.entry_position == nullptr ? at : a.entry_position[name];
    if constexpr (sizeof(T) == 1) {
      const float* scale = p.pool.scale(kv_head, name < 0 ? 0 : name);
      s.scale[0][key] = name < 0 ? 0.f : scale[0];
      s.scale[1][key] = name < 0 ? 0.f : scale[kChunkKeys];
    }
    const uint32_t any_bits = __ballot_sync(~0u, any), all_bits = __ballot_sync(~0u, all);
    if (threadIdx.x % 32 == 0) {
      s.any[key / 32] = any_bits;
      s.all[key / 32] = all_bits;
    }
  }
}

// What a thread brings of a chunk, and looks at where it must, 16 bytes at a time: body(place in a side, key, part of
// the key's row).
template <class T, int Dim, int Threads, class Body>
__device__ __forceinline__ void for_own_copies(Body body) {
  constexpr int kChunks = Products<T, Dim>::kRowBytes / 16;
#pragma unroll 2
  for (int i = int(threadIdx.x); i < kChunkKeys * kChunks; i += Threads)
    body(place<kChunkKeys, Products<T, Dim>::kRowBytes>(i / kChunks, i % kChunks), i / kChunks, i % kChunks);
}

// Begins to bring a chunk's K and V; zeros for keys that no row sees, and behind head_dim.
template <class T, int Dim, bool Wide, int Room>
__device__ __forceinline__ void bring(const Params& p, Shared<T, Dim, Wide, Room>& s, const Source& source, int chunk,
                                      int stage) {
  unsigned char *k = s.stage[stage], *v = k + Products<T, Dim>::kSideBytes;
  const int chunks = (int(p.a.head_dim) * int(sizeof(T)) + 15) / 16;
  for_own_copies<T, Dim, Shared<T, Dim, Wide, Room>::kThreads>([&](uint32_t at, int key, int c) {
    const int name = s.key[chunk * kChunkKeys + key];
    const bool there = name >= 0 && c < chunks;
    const int64_t from = there ? source.offset(name) + c * 16 : 0;
    if (p.aligned) {
      copy16_if(there, k + at, source.k + from);
      copy16_if(there, v + at, source.v + from);
      return;
    }
    constexpr int kElements = 16 / sizeof(T);
    for (int i = 0; i < kElements; i++) {
      reinterpret_cast<T*>(k + at)[i] = there ? reinterpret_cast<const T*>(source.k + from)[i] : T{};
      reinterpret_cast<T*>(v + at)[i] = there ? reinterpret_cast<const T*>(source.v + from)[i] : T{};
    }
  });
}

// Whether V's part that this thread brought has a number that is not finite.
template <class T, int Dim, bool Wide, int Room>
__device__ __forceinline__ bool not_finite(const Shared<T, Dim, Wide, Room>& s, int stage) {
  bool bad = false;
  if constexpr (sizeof(T) == 2)
    for_own_copies<T, Dim, Shared<T, Dim, Wide, Room>::kThreads>([&](uint32_t at, int, int) {
      const uint4 x = *reinterpret_cast<const uint4*>(s.stage[stage] + Products<T, Dim>::kSideBytes + at);
      for (const uint32_t w : {x.x, x.y, x.z, x.w})
        bad |= (w & 0x7f80u) == 0x7f80u || (w & 0x7f800000u) == 0x7f800000u;
    });
  return bad;
}

// Scores of a lane's two rows: scale of K, bias, and -infinity where a row does not see.
template <class T, int Dim, bool Wide, int Room>
__device__ __forceinline__ void finish_scores(const Params& p, const Shared<T, Dim, Wide, Room>& s,
                                              const Vectors& vectors, int first_vector, int piece, int chunk,
                                              const uint32_t (&bits)[2], Scores& score) {
  const Args& a = p.a;
  const int column = threadIdx.x % 4 * 2, first = chunk * kChunkKeys + column;
  if constexpr (sizeof(T) == 1)
#pragma unroll
    for (int j = 0; j < kKeyTiles; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) score[j][i] *= s.scale[0][first + 8 * j + i % 2];
  if (a.bias_kind != FTH_BIAS_NONE) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int vector = first_vector + threadIdx.x % 32 / 4 + 8 * e;
      const int row = vectors.row_of(vector), head = vectors.head_of(vector);
      const bool dense = a.bias_kind == FTH_BIAS_DENSE;
      const float* bias = a.bias + (dense ? int64_t(row) * a.heads + head : int64_t(head)) * a.bias_width;
      const int64_t shift = a.bias_center - int64_t(a.rows[row].position);
#pragma unroll
      for (int j = 0; j < kKeyTiles; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if (!(bits[e] >> (2 * j + i) & 1)) continue;
          const int key = first + 8 * j + i;
          const int64_t at = dense ? int64_t(piece) * kPieceKeys + key
                                   : max(int64_t(0), min(s.position[key] + shift, a.bias_width - 1));
          score[j][2 * e + i] += bias[at];
        }
    }
  }
#pragma unroll
  for (int j = 0; j < kKeyTiles; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (!(bits[i / 2] >> (2 * j + i % 2) & 1)) score[j][i] = -INFINITY;
}

// Which of a lane's columns of a chunk its two rows see.
template <class T, int Dim, bool Wide, int Room>
__device__ __forceinline__ void seen_bits(const Params& p, const Shared<T, Dim, Wide, Room>& s, const Vectors& vectors,
                                          int first_vector, int piece, int chunk, bool mixed, uint32_t (&bits)[2]) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int e = 0; e < 2; e++) {
    bits[e] = 0;
    if (!mixed) {
#pragma unroll
      for (int j = 0; j < kKeyTiles; j++)
        bits[e] |= (s.any[2 * chunk + j / 4] >> (j % 4 * 8 + column) & 3) << 2 * j;
      continue;
    }
    const fth_row& row = p.a.rows[vectors.row_of(first_vector + threadIdx.x % 32 / 4 + 8 * e)];
    for (int j = 0; j < kKeyTiles; j++)
      for (int i = 0; i < 2; i++) {
        const int key = chunk * kChunkKeys + 8 * j + column + i;
        const bool seen = sees(row, piece * kPieceKeys + key) && (!p.a.masked || s.reach[key] >= row.depth);
        bits[e] |= uint32_t(seen) << (2 * j + i);
      }
  }
}

// Scores of 16 keys each become scores of 64 in every warp.
template <int Threads>
__device__ __forceinline__ void share_scores(float* scores, const float (&own)[2][4], Scores& all) {
  const int lane = threadIdx.x % 32, key = threadIdx.x / 32 * 16;
  float* at = scores + lane / 4 * kScoreStride + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int e = 0; e < 2; e++)
      *reinterpret_cast<float2*>(at + e * 8 * kScoreStride + key + j * 8) = {own[j][2 * e], own[j][2 * e + 1]};
  group_barrier(1, Threads);
#pragma unroll
  for (int j = 0; j < kKeyTiles; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float2 two = *reinterpret_cast<const float2*>(at + e * 8 * kScoreStride + j * 8);
      all[j][2 * e] = two.x;
      all[j][2 * e + 1] = two.y;
    }
}

// The items of block number `block` of `blocks`, by the first S::kThreads of its threads.
template <class T, int Dim, bool Wide, int Room>
__device__ __forceinline__ void attend_items(const Params& p, Shared<T, Dim, Wide, Room>& s, int block, int blocks) {
  using P = Products<T, Dim>;
  using S = Shared<T, Dim, Wide, Room>;
  constexpr int kStages = S::kStages, kTiles = S::kTiles;
  const Args& a = p.a;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = Wide ? 0 : warp * kTiles * 8;
  const int first_vector = Wide ? warp * kTileVectors : 0;
  const int group = int(a.heads / a.kv_heads), all_parts = int(a.kv_heads) * p.parts;
  const Item* items = Wide ? p.wide_items : p.items;
  const int64_t work = int64_t(p.item_count[Wide]) * all_parts;

  for (int64_t w = block; w < work; w += blocks) {
    const Item item = items[w / all_parts];
    const int part = int(w % all_parts), kv_head = part / p.parts, split = part % p.parts;
    const int first_head = split * group / p.parts;
    const int last_head = (split + 1) * group / p.parts;
    const Vectors vectors{item.row, item.rows, kv_head * group + first_head, last_head - first_head};
    const Source source = source_of<T>(p, item, kv_head);
    const Sure sure = sure_of(a.rows + item.row, item.rows);

    group_barrier(1, S::kThreads);  // the last item's queries have been read
    for (int i = int(threadIdx.x); i < S::kVectors * Dim / 2; i += S::kThreads) {
      const int vector = i / (Dim / 2), d = i % (Dim / 2) * 2;
      const bool there = vector < vectors.count() && d < a.head_dim;
      const float* q = a.q + vectors.row_of(vector) * a.q_stride + vectors.head_of(vector) * a.head_dim + d;
      P::template put_query<S::kVectors>(s.query, vector, d, there ? a.scale * q[0] : 0.f,
                                          there ? a.scale * q[1] : 0.f);
    }

    Softmax total;
    float total_out[Wide ? 1 : kTiles][4] = {};
    if constexpr (Wide)
      for (int i = 0; i < kTiles * 4; i++) s.total[i][threadIdx.x] = 0;
    for (int piece = item.piece; piece < item.piece + item.pieces; piece++) {
      group_barrier(1, S::kThreads);  // what is known of the last piece has been read
      look_at_keys(p, s, item, sure, piece, kv_head);
      group_barrier(1, S::kThreads);
      unsigned chunks = 0;  // those with a key that some row sees
      for (int c = 0; c < kPieceChunks; c++) chunks |= unsigned((s.any[2 * c] | s.any[2 * c + 1]) != 0) << c;

      Softmax soft;
      float out[kTiles][4] = {};
      unsigned ahead = chunks;
      const auto bring_next = [&](int n) {
        if (ahead != 0) bring(p, s, source, __ffs(int(ahead)) - 1, n % kStages);
        ahead &= ahead - 1;
        copy_commit();
      };
      for (int n = 0; n < kStages - 1; n++) bring_next(n);
      for (int n = 0; chunks != 0; n++, chunks &= chunks - 1) {
        const int chunk = __ffs(int(chunks)) - 1, stage = n % kStages;
        const bool mixed = s.any[2 * chunk] != s.all[2 * chunk] || s.any[2 * chunk + 1] != s.all[2 * chunk + 1];
        if constexpr (kStages == 1) {
          group_barrier(1, S::kThreads);
          bring_next(n);
          copy_wait<0>();
        } else {
          copy_wait<kStages - 2>();
        }
        bool apart = false;
        if (sizeof(T) == 2 && mixed) apart = group_any(1, S::kThreads, not_finite(s, stage));
        else group_barrier(1, S::kThreads);
        if constexpr (kStages > 1) bring_next(n + kStages - 1);  // where the last chunk was

        const char *k = reinterpret_cast<const char*>(s.stage[stage]), *v = k + P::kSideBytes;
        Scores score;
        if constexpr (Wide) {
#pragma unroll
          for (int j = 0; j < kKeyTiles; j += 2) {
            float own[2][4] = {};
            P::template scores<S::kVectors>(s.query, first_vector, k, j * 8, own);
#pragma unroll
            for (int i = 0; i < 4; i++) {
              score[j][i] = own[0][i];
              score[j + 1][i] = own[1][i];
            }
          }
        } else {
          float own[2][4] = {};
          P::template scores<S::kVectors>(s.query, 0, k, warp * 16, own);
          share_scores<S::kThreads>(s.scores, own, score);
        }

        uint32_t bits[2];
        float factor[2];
        seen_bits(p, s, vectors, first_vector, piece, chunk, mixed, bits);
        finish_scores(p, s, vectors, first_vector, piece, chunk, bits, score);
        weigh(score, soft, factor);
#pragma unroll
        for (int n = 0; n < kTiles; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) out[n][i] *= factor[i / 2];

        if constexpr (sizeof(T) == 4) {
          float* weights = s.weights + lane / 4 * kScoreStride + lane % 4 * 2;
#pragma unroll
          for (int j = 0; j < kKeyTiles; j++)
            for (int i = 0; i < 4; i++)
              if (j / 2 == warp)
                weights[i / 2 * 8 * kScoreStride + j * 8 + i % 2] =
                    bits[i / 2] >> (2 * j + i % 2) & 1 ? score[j][i] : -1.f;
          group_barrier(1, S::kThreads);
          P::template values<kTiles>(s.weights, kScoreStride, v, dim, out);
        } else {
          if constexpr (sizeof(T) == 1) {
            const float* scale = s.scale[1] + chunk * kChunkKeys + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < kKeyTiles; j++)
#pragma unroll
              for (int i = 0; i < 4; i++)
                score[j][i] = bits[i / 2] >> (2 * j + i % 2) & 1 ? score[j][i] * scale[8 * j + i % 2] : 0.f;
          }
          typename P::Weights weights;
#pragma unroll
          for (int j = 0; j < kKeyTiles; j++) {
            weights[j / 2][j % 2 * 2] = pack(score[j][0], score[j][1]);
            weights[j / 2][j % 2 * 2 + 1] = pack(score[j][2], score[j][3]);
          }
          if (dim >= a.head_dim) continue;  // rounded up to what kernels there are
          if (sizeof(T) == 2 && apart) P::template values<kTiles, true>(weights, v, dim, out, bits);
          else P::template values<kTiles, false>(weights, v, dim, out, bits);
        }
      }
      gather_sums(soft);
      if (Wide || item.state < 0) {
        const Join join(total, soft);
#pragma unroll
        for (int n = 0; n < kTiles; n++) {
          if constexpr (Wide) {
            float sum[4];
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i] = s.total[n * 4 + i][threadIdx.x];
            join(sum, out[n]);
#pragma unroll
            for (int i = 0; i < 4; i++) s.total[n * 4 + i][threadIdx.x] = sum[i];
          } else {
            join(total_out[n], out[n]);
          }
        }
        continue;
      }
      float* state = p.states + (int64_t(item.state) * all_parts + part) * p.state_floats;
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int vector = first_vector + lane / 4 + 8 * e;
        if (vector >= vectors.count()) continue;
        float* to = state + vector * (Dim + 2);
        if (warp == 0 && lane % 4 == 0) *reinterpret_cast<float2*>(to + Dim) = {soft.max[e], soft.sum[e]};
        for (int n = 0; n < kTiles; n++)
          *reinterpret_cast<float2*>(to + dim + n * 8 + lane % 4 * 2) = {out[n][2 * e], out[n][2 * e + 1]};
      }
    }

    if (!Wide && item.state >= 0) {
      const int64_t first = item.state - (item.piece - item.begin / kPieceKeys);  // the state of the first piece
      if (!last_group(p.tickets + first * all_parts + part, unsigned(item.total), &s.flag, 1, S::kThreads)) continue;
      for (int i = 0; i < item.total; i++) {
        const float* state = p.states + ((first + i) * all_parts + part) * p.state_floats;
        Softmax soft;
        float out[kTiles][4] = {};
        for (int e = 0; e < 2; e++) {
          const int vector = first_vector + lane / 4 + 8 * e;
          if (vector >= vectors.count()) continue;
          const float* from = state + vector * (Dim + 2);
          const float2 both = load_fresh(reinterpret_cast<const float2*>(from + Dim));
          soft.max[e] = both.x;
          soft.sum[e] = both.y;
          for (int n = 0; n < kTiles; n++) {
            const float2 two = load_fresh(reinterpret_cast<const float2*>(from + dim + n * 8 + lane % 4 * 2));
            out[n][2 * e] = two.x;
            out[n][2 * e + 1] = two.y;
          }
        }
        const Join join(total, soft);
        for (int n = 0; n < (Wide ? 0 : kTiles); n++) join(total_out[n], out[n]);
      }
    }

#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int vector = first_vector + lane / 4 + 8 * e;
      if (vector >= vectors.count()) continue;
      const int64_t to = vectors.row_of(vector) * a.out_stride + vectors.head_of(vector) * a.head_dim;
      const float part_of = total.sum[e] == 0 ? 0.f : 1.f / total.sum[e];
      for (int n = 0; n < kTiles; n++)
        for (int i = 2 * e; i < 2 * e + 2; i++) {
          const int d = dim + P::dim_of(n, i);
          if (d >= a.head_dim) continue;
          const float sum = Wide ? s.total[n * 4 + i][threadIdx.x] : total_out[Wide ? 0 : n][i];
          const float y = total.sum[e] == 0 ? 0.f : sum * part_of;
          if (a.out_bf16) static_cast<bf16*>(a.out)[to + d] = to_bf16(y);
          else static_cast<float*>(a.out)[to + d] = y;
        }
    }
  }
}

}  // namespace
}  // namespace fth::attention
