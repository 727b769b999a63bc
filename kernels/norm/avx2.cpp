#include "../simd/avx2.h"
#include "rows.h"

namespace fth::norm::avx2 {

void rows(const Args& a, int64_t begin, int64_t end) { fth::norm::rows<Vector>(a, begin, end); }

}  // namespace fth::norm::avx2
