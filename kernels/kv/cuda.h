// Where a layer's K and V lie in a pool of plain rows.
#pragma once
#include "cuda/primitives.h"
#include "kv/kv.h"

namespace fth::kv::cuda {

struct Rows {
  char* data;
  int64_t head_stride, page_stride, row_bytes, v_offset, scale_offset;

  // K of an entry; V is v_offset behind it.
  __host__ __device__ __forceinline__ char* row(int64_t head, int32_t entry) const {
    return page(head, entry) + entry % kPage * row_bytes;
  }
  // int8: K's scale of an entry; V's is kPage floats behind it.
  __host__ __device__ __forceinline__ float* scale(int64_t head, int32_t entry) const {
    return reinterpret_cast<float*>(page(head, entry) + scale_offset) + entry % kPage;
  }

 private:
  __host__ __device__ __forceinline__ char* page(int64_t head, int32_t entry) const {
    return data + head * head_stride + entry / kPage * page_stride;
  }
};

inline Rows rows_of(const Pool& p, int64_t layer) {
  return {tile(p, 0, layer, 0), p.pages * page_bytes(p), page_bytes(p), plain_row_bytes(p), k_tile_bytes(p),
          k_tile_bytes(p) + v_tile_bytes(p)};
}

}  // namespace fth::kv::cuda
