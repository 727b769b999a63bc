// Products with packed weights: y = r + g * act(z), z = W x + bias + addend, on any subset of the rows.
//
// Packed weights are panels of 64 output features, each one stream in the order in which a product reads it:
//   f32   [panel][k][64]            bf16  [panel][k' / 2][64][2],  k' = k rounded up to even; padding is zero.
// With glu the panels alternate: the gate's features 64p .. 64p+63, then the values' features 64p .. 64p+63.
//
// Every output is one chain of fp32 fused multiply-adds over k = 0, 1, 2, ... (pairs of k with the bf16 dot
// instruction), started at zero. Tiles, panels and blocks of k only decide when a chain advances, so a row's bits do
// not depend on them.
#pragma once
#include <cstdint>

#include "fathom/fathom.h"

namespace fth::linear {

constexpr int64_t kPanel = 64;  // output features per panel

struct Args {
  const void* weight;   // packed, f32 or bf16
  int64_t k;            // input features
  int64_t n;            // output features
  bool glu;             // 2n features: act(z_gate) * z_value
  int32_t activation;   // FTH_IDENTITY ...
  const void* x;        // of the weights' type; a bf16 row of odd k has a zero behind it
  int64_t x_stride;     // elements from row to row, as all strides; even for bf16
  const int32_t* rows;  // the rows to work on, of x and of everything below; null: 0, 1, 2, ...
  int64_t count;        // how many
  const float* bias;    // [n], glu: [2][n]; or null
  const float* addend;  // rows of [n], glu: [2][n]; or null
  int64_t addend_stride;
  const float* residual;  // r, rows of [n]; null: 0. May be y
  int64_t residual_stride;
  const float* gate;  // g, [row]; null: 1
  float* y;           // rows of [n], or null
  int64_t y_stride;
  uint16_t* y_bf16;  // the result rounded to bf16, or null; odd n: a zero is written behind the row
  int64_t y_bf16_stride;
};

// Features 64 * panel_begin .. 64 * panel_end - 1 (of n) for the rows at places row_begin .. row_end - 1 of args.rows.
using Panels = void(const Args&, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end);
// Rows [begin, end) of x, [.., k], rounded to bf16; odd k: a zero is written behind the row.
using Round = void(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin,
                   int64_t end);

// Rows that a kernel takes over a panel together: so many share the L2 cache with a block of it.
constexpr int64_t kRowChunk = 96;

namespace scalar {
Panels panels_f32, panels_bf16;
Round round;
}  // namespace scalar
namespace avx2 {
Panels panels_f32, panels_bf16;
Round round;
}  // namespace avx2
namespace avx512 {
Panels panels_f32, panels_bf16;
Round round;
}  // namespace avx512
namespace avx512bf16 {
Panels panels_bf16;
}  // namespace avx512bf16

}  // namespace fth::linear
