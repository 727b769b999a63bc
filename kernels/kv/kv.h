// The K,V pool. A *page* is 64 entries; the pool is [layer][kv_head][page]{K tile, V tile}, so that a head's pages of a
// list that was allocated in one go are one stream in memory. Inside a tile both products of attention read memory in
// order, 64 columns wide:
//   K tile  f32 [head_dim][64 keys]               bf16, int8 [head_dim / 2][64 keys][2]
//   V tile  f32 per block of 64 dims [64 keys][w]  bf16, int8 [32 key pairs][w][2]  (w: 64, the last block's is narrower)
// V's dims are padded to a multiple of 16. With int8 a page goes on with the scales of its keys: K's [64], V's [64], f32;
// an element is scale * int8. Slots of entries that were never written hold anything.
//
// CUDA devices have plain rows instead, so that a tile is as quick to read entry by entry as it is whole: a page is K
// [64 keys][row], V [64 keys][row] and int8's scales as above; a row is head_dim elements, with zeros up to 16 bytes.
//
// int8: scale = max|x| / 127, elements round(x * (127 / max|x|)) to nearest even. If max|x| < 2^-100 all of it is 0; if
// an element is no finite number all of it is not-a-number.
#pragma once
#include <cstdint>

#include "cuda/queue.h"
#include "fathom/fathom.h"

namespace fth::kv {

constexpr int64_t kPage = 64;
constexpr int64_t kMostHeadDim = 256;

struct Pool {
  char* data;
  int64_t layers, kv_heads, pages, head_dim;
  int32_t type;
  bool plain_rows = false;  // the layout of CUDA devices
};

static inline int64_t element_bytes(int32_t type) { return type == FTH_F32 ? 4 : type == FTH_BF16 ? 2 : 1; }
static inline int64_t padded(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
static inline int64_t plain_row_bytes(const Pool& p) { return (p.head_dim * element_bytes(p.type) + 15) / 16 * 16; }
static inline int64_t k_tile_bytes(const Pool& p) {
  return kPage * (p.plain_rows ? plain_row_bytes(p) : p.head_dim * element_bytes(p.type));
}
static inline int64_t v_tile_bytes(const Pool& p) {
  return kPage * (p.plain_rows ? plain_row_bytes(p) : padded(p.head_dim) * element_bytes(p.type));
}
static inline int64_t page_bytes(const Pool& p) {
  return k_tile_bytes(p) + v_tile_bytes(p) + (p.type == FTH_I8 ? 2 * kPage * int64_t(sizeof(float)) : 0);
}
// Where the K tile of (page, layer, kv head) begins; its V tile follows, then the scales.
static inline char* tile(const Pool& p, int64_t page, int64_t layer, int64_t head) {
  return p.data + ((layer * p.kv_heads + head) * p.pages + page) * page_bytes(p);
}

// Index of element (key 0..63, dim) in a tile. Pairs: of bf16 or int8.
static inline int64_t k_index(bool pairs, int64_t key, int64_t dim) {
  return pairs ? dim / 2 * (2 * kPage) + key * 2 + dim % 2 : dim * kPage + key;
}
static inline int64_t v_index(bool pairs, int64_t head_dim, int64_t key, int64_t dim) {
  const int64_t block = dim / 64, column = dim % 64, rest = padded(head_dim) - block * 64;
  const int64_t width = rest < 64 ? rest : 64;
  return block * 64 * kPage + (pairs ? (key / 2 * width + column) * 2 + key % 2 : key * width + column);
}

struct Args {
  Pool pool;
  int64_t layer;
  const int32_t* entry;   // of item i: entry[i * entry_stride]; -1 skips the item
  int64_t entry_stride;
};

// Items [begin, end): stores k, v [items, kv_heads, head_dim] (`stride` floats between items), or reads them back.
// Every target stores the same bits.
using Write = void(const Args&, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end);
using Read = void(const Args&, float* k, float* v, int64_t begin, int64_t end);
namespace scalar { Write write; Read read; }
namespace avx2 { Write write; }
namespace avx512 { Write write; }
namespace cuda {  // all pointers on the device
// Several of a backfill, from layer 0 on: target t is layer t % layers, its entries are t / layers behind the first
// one's, its k and v t * stride floats.
struct Targets {
  int64_t count, stride;
};
void write(const Args&, int64_t count, const float* k, const float* v, int64_t stride, const gpu::Queue&,
           const Targets& = {1, 0});
void read(const Args&, int64_t count, float* k, float* v, void* stream);
}

}  // namespace fth::kv
