// The only variant: a write moves a few hundred floats per row, which is nothing beside the products around it.
#include <cstring>

#include "../simd/scalar.h"

#include "kv.h"

namespace fth::kv::scalar {
namespace {

// What is stored of a head's row, whose length is a multiple of 8: compilers turn 8 conversions into vectors.
inline const float* stored(const float* x, int64_t, float*) { return x; }
inline const uint16_t* stored(const float* x, int64_t count, uint16_t* scratch) {
  for (int64_t i = 0; i < count; i += 8)
    for (int64_t j = 0; j < 8; j++) scratch[i + j] = bf16_of_float(x[i + j]);
  return scratch;
}

inline float loaded(float x) { return x; }
inline float loaded(uint16_t x) { return float_of_bf16(x); }

// Calls f with item, K tile, V tile and offset of its heads in [kv_heads, head_dim], of items that have an entry.
template <typename F>
inline void each_head(const Args& a, int64_t begin, int64_t end, F f) {
  const Pool& pool = a.pool;
  for (int64_t i = begin; i < end; i++) {
    const int64_t entry = a.entry[i * a.entry_stride];
    if (entry < 0) continue;
    for (int64_t head = 0; head < pool.kv_heads; head++) {
      char* k_tile = tile(pool, entry / kPage, a.layer, head);
      f(i, entry % kPage, k_tile, k_tile + k_tile_bytes(pool), head * pool.head_dim);
    }
  }
}

// Calls f with index in the row and index in the tile of V, whose distance is fixed within a block of 64 dims.
template <typename T, typename F>
inline void each_of_v(int64_t head_dim, int64_t key, F f) {
  constexpr bool bf16 = sizeof(T) == 2;
  for (int64_t block = 0; block < head_dim; block += 64) {
    const int64_t first = v_index(bf16, head_dim, key, block), count = head_dim - block < 64 ? head_dim - block : 64;
    for (int64_t c = 0; c < count; c++) f(block + c, first + c * (bf16 ? 2 : 1));
  }
}

template <typename T>
void write(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  const int64_t head_dim = a.pool.head_dim;
  each_head(a, begin, end, [&](int64_t i, int64_t key, char* k_tile, char* v_tile, int64_t head) {
    T *to_k = reinterpret_cast<T*>(k_tile), *to_v = reinterpret_cast<T*>(v_tile);
    T scratch[kMostHeadDim];
    const T* from = stored(k + i * stride + head, head_dim, scratch);
    constexpr int64_t together = 4 / sizeof(T);  // dims that stand side by side in K
    for (int64_t d = 0; d < head_dim; d += together) memcpy(to_k + k_index(sizeof(T) == 2, key, d), from + d, 4);
    from = stored(v + i * stride + head, head_dim, scratch);
    each_of_v<T>(head_dim, key, [&](int64_t d, int64_t at) { to_v[at] = from[d]; });
  });
}

template <typename T>
void read(const Args& a, float* k, float* v, int64_t begin, int64_t end) {
  const int64_t head_dim = a.pool.head_dim, row = a.pool.kv_heads * head_dim;
  each_head(a, begin, end, [&](int64_t i, int64_t key, const char* k_tile, const char* v_tile, int64_t head) {
    float *to_k = k + i * row + head, *to_v = v + i * row + head;
    const T *from_k = reinterpret_cast<const T*>(k_tile), *from_v = reinterpret_cast<const T*>(v_tile);
    for (int64_t d = 0; d < head_dim; d++) to_k[d] = loaded(from_k[k_index(sizeof(T) == 2, key, d)]);
    each_of_v<T>(head_dim, key, [&](int64_t d, int64_t at) { to_v[d] = loaded(from_v[at]); });
  });
}

}  // namespace

void write(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  a.pool.bf16 ? write<uint16_t>(a, k, v, stride, begin, end) : write<float>(a, k, v, stride, begin, end);
}

void read(const Args& a, float* k, float* v, int64_t begin, int64_t end) {
  a.pool.bf16 ? read<uint16_t>(a, k, v, begin, end) : read<float>(a, k, v, begin, end);
}

}  // namespace fth::kv::scalar
