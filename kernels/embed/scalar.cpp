#include "embed.h"

#include "../simd/scalar.h"

namespace fth::embed::scalar {

void f32(const float* row, float scale, int64_t width, float* out) {
  for (int64_t k = 0; k < width; k++) out[k] = scale * row[k];
}
void bf16(const uint16_t* row, float scale, int64_t width, float* out) {
  for (int64_t k = 0; k < width; k++) out[k] = scale * float_of_bf16(row[k]);
}

}  // namespace fth::embed::scalar
