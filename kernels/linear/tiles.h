// How a CUDA context packs weights. A strip is 64 rows of W; it is stored in steps of k, each a tile image
// (cuda/types.h: 64 rows of 128 bytes, swizzled) and, for blocks of 32 with a scale, the scales of its groups:
//   f32   32 k per step                     bf16  64 k
//   i8    128 k; behind the last step fp32 scales [64]
//   f8    the same; of 16 k, four bytes hold k, k + 8, k + 1, k + 9, k even: what a lane has of an operand in bf16
//   q8_0  128 k, then fp16 scales [64][4]
//   q4_0  256 k, then fp16 scales [64][8]; 16 bytes are a group, the low nibbles its k 0 .. 15, the high ones 16 .. 31.
// Behind the last k, and in the last strip behind the last row, are zeros. With glu a strip is 32 features: rows
// 16 i .. 16 i + 7 of it are gates 8 i .. 8 i + 7, the 8 rows behind are their values.
#pragma once
#include <cstdint>

#include "fathom/fathom.h"

namespace fth::linear::tiles {

constexpr int64_t kRows = 64, kImageBytes = 64 * 128;
constexpr int64_t kAlignment = 16;  // of packed weights: bulk copies move them

constexpr int64_t step_k(int32_t type) {
  return type == FTH_F32 ? 32 : type == FTH_BF16 ? 64 : type == FTH_Q4_0 ? 256 : 128;
}
constexpr int64_t step_bytes(int32_t type) {
  return kImageBytes + (type == FTH_Q8_0 ? kRows * 4 * 2 : type == FTH_Q4_0 ? kRows * 8 * 2 : 0);
}
constexpr int64_t steps(int32_t type, int64_t k) { return (k + step_k(type) - 1) / step_k(type); }
constexpr int64_t strip_bytes(int32_t type, int64_t k) {
  return steps(type, k) * step_bytes(type) + (type == FTH_I8 || type == FTH_F8_E4M3 ? kRows * 4 : 0);
}
// Output features of a strip.
constexpr int64_t features(bool glu) { return glu ? kRows / 2 : kRows; }
constexpr int64_t strips(int64_t out, bool glu) { return (out + features(glu) - 1) / features(glu); }

}  // namespace fth::linear::tiles
