#include "../simd/avx512.h"
#include "rows.h"

namespace fth::norm::avx512 {

void rows(const Args& a, int64_t begin, int64_t end) { fth::norm::rows<Vector>(a, begin, end); }

}  // namespace fth::norm::avx512
