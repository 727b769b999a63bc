// How far hidden states moved: a few sums per row, from the states after two or three passes.
//
// Every sum is fp32, in an order that depends on the width alone. Where two states are equal, so are the bits of their
// squares and of their product: a state that stands still has a cosine of exactly 1.
#pragma once
#include <cstdint>

#include "fathom/fathom.h"

namespace fth::delta {

struct Args {
  const float* before2;  // [rows, width] or null: no acceleration
  const float* before;   // [rows, width]
  const float* now;      // [rows, width]
  int64_t width;
  fth_delta_stats* out;  // [rows]
};

// Rows [begin, end).
using Rows = void(const Args&, int64_t begin, int64_t end);
namespace scalar { Rows rows; }
namespace avx2 { Rows rows; }
namespace avx512 { Rows rows; }
// All pointers on the device. partial [count][parts(width)], not used if that is 1.
namespace cuda {
constexpr int64_t kPart = 16384;  // elements of a row that one block sums
constexpr int64_t parts(int64_t width) { return (width + kPart - 1) / kPart; }
void rows(const Args&, int64_t count, fth_delta_stats* partial, void* stream);
}  // namespace cuda

}  // namespace fth::delta
