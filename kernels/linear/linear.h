// Products with packed weights: y = r + g * act(z), z = W x + bias + addend, on any subset of the rows.
//
// Packed weights are panels of 64 output features, each one stream in the order in which a product reads it:
//   f32   [panel][k][64]            bf16  [panel][k' / 2][64][2],  k' = k rounded up to even; padding is zero.
//   f8    [panel]{[k' / 2][64][2], fp32 scales [64]}, k' as bf16; codes are read as e4m3 / 256, scales are times 256.
// The quantised types have k' = k rounded up to 32 and are stored unsigned, w + 128 or w + 8:
//   i8    [panel]{[k' / 4][64][4], fp32 scales [64]}
//   q8_0  [panel][k' / 32]{fp16 scales [64], [8][64][4]}
//   q4_0  [panel][k' / 32]{fp16 scales [64], [4][64][4]}, the low nibbles of 4 bytes hold k .. k + 3, the high ones
//         k + 4 .. k + 7.
// With glu the panels alternate: the gate's features 64p .. 64p+63, then the values' features 64p .. 64p+63.
//
// Every output is one chain of fp32 fused multiply-adds over k = 0, 1, 2, ... (pairs of k with the bf16 dot
// instruction), started at zero. With f8 it is the chain of bf16 weights that are the codes, which the feature's scale
// multiplies at the end. Tiles, panels and blocks of k only decide when a chain advances, so a row's bits do not depend
// on them. With quantised weights a link of the chain is the k whose x are quantised together, 512 with i8 and 128 with
// the others (see Scale): z = fma(x scale, t, z), where t is
//   i8         the integer dot product; z is multiplied by the feature's scale at the end
//   q8_0 q4_0  a chain over groups of 32, started at zero: t = fma(integer dot product, w scale, t).
// All instruction sets give the same bits. (A device adds up i8's links by 128.)
#pragma once
#include <cstdint>

#include "cuda/queue.h"
#include "fathom/fathom.h"

namespace fth::linear {

constexpr int64_t kPanel = 64;  // output features per panel
constexpr int64_t kGroup = 32;  // k that share a scale in Q8_0 and Q4_0

namespace {

// Bytes of a panel of k input features.
constexpr int64_t panel_bytes(int32_t type, int64_t k) {
  const int64_t groups = (k + kGroup - 1) / kGroup;
  switch (type) {
    case FTH_F32: return k * kPanel * 4;
    case FTH_BF16: return (k + 1) / 2 * kPanel * 4;
    case FTH_F8_E4M3: return (k + 1) / 2 * kPanel * 2 + kPanel * 4;
    case FTH_I8: return groups * kGroup * kPanel + kPanel * 4;
    case FTH_Q8_0: return groups * kPanel * (2 + kGroup);
    default: return groups * kPanel * (2 + kGroup / 2);
  }
}

}  // namespace

// x in 8-bit integers, 128 to a unit. A row is spans of units, of which the last may have fewer: the codes of a span,
// zero behind the row's end, and then a Scale for each of its units. x ~ scale * code, scale = max|x| / 127 over the
// span, rounded to nearest even; max|x| below 2^-100 counts as zero. A NaN or infinite x makes the scale NaN.
constexpr int64_t kCodeUnit = 128, kGroups = kCodeUnit / kGroup;
struct Scale {
  float scale;
  int32_t minus_sum[kGroups];  // of each group's codes, negated: takes the weights' offset out
  int32_t minus_span;          // of all codes of the span, in its first unit; else 0
  int32_t unused[2];
};

namespace {

constexpr int64_t kUnitBytes = kCodeUnit + int64_t(sizeof(Scale));
constexpr int64_t units(int64_t k) { return (k + kCodeUnit - 1) / kCodeUnit; }
// Units of a whole span: weights that have a scale per feature are multiplied by long ones.
constexpr int64_t span_of(int32_t type) { return type == FTH_I8 ? 4 : 1; }

}  // namespace

struct Args {
  int32_t type;         // of the weights: FTH_F32 ...
  const void* weight;   // packed
  int64_t k;            // input features
  int64_t n;            // output features
  int64_t whole_n;      // on a device, of the matrix that these are a part of: the same bits; 0: they are all
  const int32_t* picks; // on a device: y is [count] alone, y[i] feature picks[i] of row i / picks_per_row; or null
  int64_t picks_per_row;
  bool glu;             // 2n features: act(z_gate) * z_value
  int32_t activation;   // FTH_IDENTITY ...
  const void* x;        // rows of fp32; for bf16 and f8 of bf16 (of odd k: a zero behind it); for quantised of codes
  int64_t x_bytes;      // from row to row of x; all other strides are in elements
  const int32_t* rows;  // the rows to work on, of x and of everything below; null: 0, 1, 2, ...
  int64_t count;        // how many
  const int32_t* live;  // on a device, which may know of fewer: those at places before *live. Null: all
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
// A kernel takes the weights of its name; those of the quantised types look at args.type.
using Panels = void(const Args&, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end);
// Rows [begin, end) of x, [.., k], rounded to bf16; odd k: a zero is written behind the row.
using Round = void(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin,
                   int64_t end);
// Rows [begin, end) of x, [.., k], in codes, [.., units(k) * kUnitBytes], in spans of so many units.
using Quantise = void(const float* x, int64_t k, int64_t span, char* y, int64_t begin, int64_t end);

// Rows that a kernel takes over a panel together: so many share the L2 cache with a block of it.
constexpr int64_t kRowChunk = 96;

namespace scalar {
Panels panels_f32, panels_bf16, panels_f8, panels_quantised;
Round round;
Quantise quantise;
}  // namespace scalar
namespace avx2 {
Panels panels_f32, panels_bf16, panels_f8, panels_quantised;
Round round;
Quantise quantise;
}  // namespace avx2
namespace avx2vnni {
Panels panels_quantised;
}  // namespace avx2vnni
namespace avx512 {
Panels panels_f32, panels_bf16, panels_f8;
Round round;
Quantise quantise;
}  // namespace avx512
namespace avx512vnni {
Panels panels_quantised;
}  // namespace avx512vnni
namespace avx512bf16 {
Panels panels_bf16, panels_f8;
}  // namespace avx512bf16

// Weights of which each row takes those of its depth: D_d x, d = rows[row].depth.
struct ByDepth {
  const void* weight;  // of depth 0, packed (tiles.h); null: none
  int64_t depth_bytes, strip_bytes, steps;
  int64_t k;
  const void* x;  // as Args::x
  int64_t x_bytes;
  const fth_row* rows;
};

// What blocks of one product share: sums of theirs, tickets that are zero between launches.
struct Workspace {
  float* partials;
  int64_t partial_bytes;
  unsigned* tickets;
  int64_t ticket_count;
  int32_t multiprocessors;
  bool wgmma;  // a device of compute capability 9.0
};

// z = W x + bias + addend + D_d u for W of `type`; D is fp32 with fp32 weights, else bf16. Without args.weight there is
// no W x and D is of `type`, fp32 or bf16.
struct Product {
  int32_t type;
  Args args;
  ByDepth by_depth;
};

// Rows of W into strips: `count` rows of the source become features first, first + 1, ... of one half (glu: 0 gates, 1
// values; else 0) and `padding` more become zero.
struct Packing {
  int32_t type, source_type;
  int64_t source_row_bytes;
  int64_t k, first, count, padding;
  int32_t half;
  bool glu;
  float scale;
  const void* source;
  void* packed;
};

// All pointers are to memory of the device. Weights are packed as tiles.h says; rows of bf16 begin at multiples of 16
// bytes and are zero up to a multiple of 8.
namespace cuda {
// Products that do not depend on one another. All weights were written before a kernel that is in front of these on the
// stream: they may be read before it is done.
void products(const Product* list, int count, const Workspace& space, const gpu::Queue&);
// As Round and Quantise for rows 0 .. count - 1, x without gaps; of a Scale only the scale is set.
void round(const float* x, int64_t k, uint16_t* y, int64_t y_stride, int64_t count, const gpu::Queue&);
void quantise(const float* x, int64_t k, int64_t span, char* y, int64_t count, const gpu::Queue&);

void pack(const Packing& packing, void* stream);
// Elements of a checkpoint's tensor as fp32, times scale.
void convert(int32_t source_type, const void* source, int64_t count, float scale, float* out, void* stream);
}  // namespace cuda
namespace cuda90 {
// cuda::products, of weights that are not fp32.
void products(const Product* list, int count, const Workspace& space, void* stream);
}  // namespace cuda90

}  // namespace fth::linear
