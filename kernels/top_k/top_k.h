// The largest values of each segment, as positions in ascending order.
//
// Values become integers in the same order, with -0 equal to +0 and NaN below all. The k-th largest of these keys does
// not depend on how it is found, so all targets give the same bits.
#pragma once
#include <cstdint>

namespace fth::top_k {

struct Args {
  const float* values;
  const int32_t* begin;  // [segments + 1]: segment s is values[begin[s]] .. values[begin[s + 1] - 1]
  const int32_t* k;      // [segments]
  int32_t* keys;         // scratch for segment s from keys[begin[s]] on
  int32_t* index;        // k[s] positions in `values` from index[begin[s]] on
};

// Segments [begin, end).
using Segments = void(const Args&, int64_t begin, int64_t end);
namespace scalar { Segments segments; }
namespace avx2 { Segments segments; }
namespace avx512 { Segments segments; }
// All pointers on the device; keys are not used. `longest`: about the size of the longest segment, for speed alone.
namespace cuda { void segments(const Args&, int64_t count, int64_t longest, void* stream); }

}  // namespace fth::top_k
