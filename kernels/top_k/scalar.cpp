#include "top_k.h"

#include <algorithm>
#include <functional>

#include "../simd/scalar.h"

namespace fth::top_k::scalar {
namespace {

int32_t key_of(float value) {
  if (value != value) return INT32_MIN;
  const int32_t bits = int32_t(bits_of_float(value + 0.f));  // -0 is +0
  return bits ^ (bits < 0 ? INT32_MAX : 0);
}

}  // namespace

void segments(const Args& a, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; s++) {
    const int32_t first = a.begin[s], last = a.begin[s + 1], k = a.k[s];
    if (k == 0) continue;
    for (int32_t i = first; i < last; i++) a.keys[i] = key_of(a.values[i]);
    std::nth_element(a.keys + first, a.keys + first + k - 1, a.keys + last, std::greater<>());
    const int32_t least = a.keys[first + k - 1];
    int32_t ties = k;  // how many of its equals are taken
    for (int32_t i = first; i < last; i++) ties -= a.keys[i] > least;
    int32_t* out = a.index + first;
    for (int32_t i = first; i < last; i++) {
      const int32_t key = key_of(a.values[i]);
      if (key > least || (key == least && ties-- > 0)) *out++ = i;
    }
  }
}

}  // namespace fth::top_k::scalar
