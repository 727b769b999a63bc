#include "rope.h"

#include <math.h>

namespace fth::rope {

void angles(const fth_row* rows, const float* frequency, int64_t pairs, float* table, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    float* cosine = table + i * 2 * pairs;
    for (int64_t k = 0; k < pairs; k++) {
      const float angle = float(rows[i].position) * frequency[k];
      cosine[k] = cosf(angle);
      cosine[pairs + k] = sinf(angle);
    }
  }
}

namespace scalar {

void rows(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float *cosine = a.table + i * 2 * a.pairs, *sine = cosine + a.pairs;
    for (int64_t h = 0; h < a.heads; h++) {
      float* x = a.x + i * a.stride + h * a.head_dim;
      for (int64_t k = 0; k < a.pairs; k++) {
        float& first = x[a.interleaved ? 2 * k : k];
        float& second = x[a.interleaved ? 2 * k + 1 : k + a.pairs];
        const float turned = first * cosine[k] - second * sine[k];
        second = second * cosine[k] + first * sine[k];
        first = turned;
      }
    }
  }
}

}  // namespace scalar
}  // namespace fth::rope
