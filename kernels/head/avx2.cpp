#include "../simd/avx2.h"
#include "statistics.h"

namespace fth::head::avx2 {

void statistics(const Args& a, int64_t begin, int64_t end) { fth::head::statistics<Vector>(a, begin, end); }

}  // namespace fth::head::avx2
