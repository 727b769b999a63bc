#include "write.h"

namespace fth::kv::scalar {
namespace {

struct Scalar {
  template <typename T>
  static void turn(const char* const* rows, int64_t words, char* to) {
    constexpr int64_t kUnit = sizeof(T) == 1 ? 2 : 4;  // bytes that stay together
    for (int64_t u = 0; u < words * 4 / kUnit; u++, to += kPage * kUnit)
      for (int64_t i = 0; i < kRun; i++)
        memcpy(to + i * kUnit, rows[i] + u * kUnit, kUnit);
  }
};

float loaded(float x) { return x; }
float loaded(uint16_t x) { return float_of_bf16(x); }
float loaded(int8_t x) { return float(x); }

template <typename T>
void read(const Args& a, float* k, float* v, int64_t begin, int64_t end) {
  constexpr bool kPairs = sizeof(T) < 4;
  const Pool& pool = a.pool;
  const int64_t n = pool.head_dim;
  for (int64_t i = begin; i < end; i++) {
    const int64_t entry = a.entry[i * a.entry_stride], key = entry % kPage;
    for (int64_t head = 0; head < pool.kv_heads; head++) {
      const Page<T> page(pool, entry / kPage, a.layer, head);
      float *to_k = k + (i * pool.kv_heads + head) * n, *to_v = v + (i * pool.kv_heads + head) * n;
      const float k_scale = sizeof(T) == 1 ? page.k_scale[key] : 1, v_scale = sizeof(T) == 1 ? page.v_scale[key] : 1;
      for (int64_t d = 0; d < n; d++) {
        to_k[d] = k_scale * loaded(page.k[k_index(kPairs, key, d)]);
        to_v[d] = v_scale * loaded(page.v[v_index(kPairs, n, key, d)]);
      }
    }
  }
}

}  // namespace

void write(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  write_rows<Scalar>(a, k, v, stride, begin, end);
}

void read(const Args& a, float* k, float* v, int64_t begin, int64_t end) {
  if (a.pool.type == FTH_F32) read<float>(a, k, v, begin, end);
  else if (a.pool.type == FTH_BF16) read<uint16_t>(a, k, v, begin, end);
  else read<int8_t>(a, k, v, begin, end);
}

}  // namespace fth::kv::scalar
