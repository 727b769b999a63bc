// Rows back to their places: x[index[i]] += gate[i] * y[i]. The product is rounded before it is added, so all targets
// give the same bits. (On the CPU gathering rows, and storing them, is a memory copy and needs no kernel.)
#pragma once
#include <cstdint>

#include "cuda/queue.h"

namespace fth::compact {

struct Args {
  const int32_t* index;  // [rows], all different
  const float* gate;     // [rows] or null: 1
  const float* y;        // [rows, width]
  float* x;
  int64_t width;
};

// Rows [begin, end) of y.
using ScatterAdd = void(const Args&, int64_t begin, int64_t end);
namespace scalar { ScatterAdd scatter_add; }
namespace avx2 { ScatterAdd scatter_add; }
namespace avx512 { ScatterAdd scatter_add; }
// All pointers on the device, which may know of fewer rows: the first *live. Null: all.
namespace cuda {
void gather(const int32_t* index, const float* x, float* y, int64_t width, int64_t count, const int32_t* live,
            const gpu::Queue&);
void scatter(const int32_t* index, const float* y, float* x, int64_t width, int64_t count, const int32_t* live,
             const gpu::Queue&);
void scatter_add(const Args&, int64_t count, const int32_t* live, const gpu::Queue&);
}  // namespace cuda

}  // namespace fth::compact
