// RMSNorm and LayerNorm over rows.
//   RMS:   y = x / sqrt(mean(x^2) + eps) * gain
//   Layer: y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * gain + bias
// A residual, if there is one, is added to the result.
#pragma once
#include <cstdint>

#include "cuda/queue.h"
#include "fathom/fathom.h"

namespace fth::norm {

struct Args {
  const float* x;         // [rows, width]
  const fth_row* rows;    // depth of each row, or null: all 0
  const float* gain;      // [depths, width] or null
  const float* bias;      // [depths, width] or null
  const float* residual;  // [rows, width] or null
  float* y;               // [rows, width] or null; may be x or residual
  uint16_t* y_bf16;       // [rows, stride_bf16] or null: the result rounded to bf16; width odd: a zero behind the row,
                          // on a device zeros up to the next (fewer than 128)
  int64_t width;
  int64_t stride_bf16;
  float eps;
  bool layer;             // LayerNorm
};

// Rows [begin, end).
using Rows = void(const Args&, int64_t begin, int64_t end);
namespace scalar { Rows rows; }
namespace avx2 { Rows rows; }
namespace avx512 { Rows rows; }
namespace cuda { void rows(const Args&, int64_t count, const gpu::Queue&); }  // all pointers on the device

}  // namespace fth::norm
