// Rotary position embedding. A pair (a, b) of a head turns by the angle position * frequency[i]:
//   a' = a cos - b sin,   b' = b cos + a sin
// Cosines and sines come from a table, made once per call and read by every layer. Products are rounded before they are
// added, so all targets (and PyTorch, up to its cos and sin) give the same bits.
#pragma once
#include <cstdint>

#include "cuda/queue.h"
#include "fathom/fathom.h"

namespace fth::rope {

struct Args {
  const float* table;  // [rows][cosines, sines][pairs]
  float* x;            // row i's heads begin at x + i * stride; in place
  int64_t stride;
  int64_t heads;
  int64_t head_dim;
  int64_t pairs;       // rotary_dim / 2
  bool interleaved;    // pairs (2i, 2i + 1), else (i, i + pairs)
  int64_t sets = 1;    // on a device, of heads: one behind the other by set_stride floats
  int64_t set_stride = 0;
};

// Row i's part of the table, i in [begin, end): angle = float(position) * frequency in fp32. For all CPU targets.
void angles(const fth_row* rows, const float* frequency, int64_t pairs, float* table, int64_t begin, int64_t end);

// Rows [begin, end).
using Rows = void(const Args&, int64_t begin, int64_t end);
namespace scalar { Rows rows; }
namespace avx2 { Rows rows; }
namespace avx512 { Rows rows; }
// All pointers on the device. There an angle of 2^52 and more is not-a-number.
namespace cuda {
// A table of rows' angles, as angles() fills it.
struct Angles {
  const fth_row* rows;
  const float* frequency;
  int64_t pairs;
  float* table;
};
void angles(const Angles&, int64_t count, const gpu::Queue&);
void rows(const Args&, int64_t count, const gpu::Queue&);
}  // namespace cuda

}  // namespace fth::rope
