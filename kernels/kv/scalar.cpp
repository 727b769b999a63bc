// The only variant: a write moves a few hundred floats per row, which is nothing beside the products around it.
#include "../simd/scalar.h"

#include "kv.h"

namespace fth::kv::scalar {

void write(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  const Pool& pool = a.pool;
  for (int64_t i = begin; i < end; i++) {
    const int64_t entry = a.entry[i * a.entry_stride], key = entry % kPage;
    if (entry < 0) continue;
    for (int64_t head = 0; head < pool.kv_heads; head++) {
      char* k_tile = tile(pool, entry / kPage, a.layer, head);
      char* v_tile = k_tile + k_tile_bytes(pool);
      const float* from_k = k + i * stride + head * pool.head_dim;
      const float* from_v = v + i * stride + head * pool.head_dim;
      for (int64_t d = 0; d < pool.head_dim; d++) {
        const int64_t at_k = k_index(pool.bf16, key, d), at_v = v_index(pool.bf16, pool.head_dim, key, d);
        if (pool.bf16) {
          reinterpret_cast<uint16_t*>(k_tile)[at_k] = bf16_of_float(from_k[d]);
          reinterpret_cast<uint16_t*>(v_tile)[at_v] = bf16_of_float(from_v[d]);
        } else {
          reinterpret_cast<float*>(k_tile)[at_k] = from_k[d];
          reinterpret_cast<float*>(v_tile)[at_v] = from_v[d];
        }
      }
    }
  }
}

void read(const Args& a, float* k, float* v, int64_t begin, int64_t end) {
  const Pool& pool = a.pool;
  for (int64_t i = begin; i < end; i++) {
    const int64_t entry = a.entry[i * a.entry_stride], key = entry % kPage;
    if (entry < 0) continue;
    for (int64_t head = 0; head < pool.kv_heads; head++) {
      const char* k_tile = tile(pool, entry / kPage, a.layer, head);
      const char* v_tile = k_tile + k_tile_bytes(pool);
      float* to_k = k + (i * pool.kv_heads + head) * pool.head_dim;
      float* to_v = v + (i * pool.kv_heads + head) * pool.head_dim;
      for (int64_t d = 0; d < pool.head_dim; d++) {
        const int64_t at_k = k_index(pool.bf16, key, d), at_v = v_index(pool.bf16, pool.head_dim, key, d);
        to_k[d] = pool.bf16 ? float_of_bf16(reinterpret_cast<const uint16_t*>(k_tile)[at_k])
                            : reinterpret_cast<const float*>(k_tile)[at_k];
        to_v[d] = pool.bf16 ? float_of_bf16(reinterpret_cast<const uint16_t*>(v_tile)[at_v])
                            : reinterpret_cast<const float*>(v_tile)[at_v];
      }
    }
  }
}

}  // namespace fth::kv::scalar
