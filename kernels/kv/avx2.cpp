#include "avx2.h"

#include "write.h"

namespace fth::kv::avx2 {

void write(const Args& a, const float* k, const float* v, int64_t stride, int64_t begin, int64_t end) {
  write_rows<Avx2>(a, k, v, stride, begin, end);
}

}  // namespace fth::kv::avx2
