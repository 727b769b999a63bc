#include "compact.h"

namespace fth::compact::scalar {

void scatter_add(const Args& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float gate = a.gate == nullptr ? 1.f : a.gate[i];
    for (int64_t k = 0; k < a.width; k++) a.x[a.index[i] * a.width + k] += gate * a.y[i * a.width + k];
  }
}

}  // namespace fth::compact::scalar
