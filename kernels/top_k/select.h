// What the vector targets share: the search for the k-th largest key, and the walk over segments. Internal linkage.
//
// V has the passes over memory:
//   keys(values, n, keys)                  values as keys
//   count(keys, n, pivot)                  how many are above the pivot, and how many equal
//   keep<above>(keys, n, pivot)            moves the keys above (below) the pivot to the front; how many
//   emit(values, n, first, k, cut, index)  positions, counted from `first`, of the k values that the cut takes
#pragma once
#include "top_k.h"

namespace fth::top_k {
namespace {

struct Counts {
  int64_t above, equal;
};

// What is taken: all keys above the least, and the first `ties` equal to it.
struct Cut {
  int32_t least;
  int64_t ties;
};

// Of a set of bits the lowest `most`.
inline uint32_t lowest(uint32_t set, int64_t most) {
  if (__builtin_popcount(set) <= most) return set;
  uint32_t kept = 0;
  for (; most > 0; most--, set &= set - 1) kept |= set & -set;
  return kept;
}

constexpr int64_t kSample = 16;

// Up to kSample keys from all over, in descending order.
inline void take_sample(const int32_t* keys, int64_t n, int32_t* sample) {
  const int64_t size = n < kSample ? n : kSample;
  for (int64_t i = 0; i < size; i++) {
    const int32_t key = keys[i * n / size];
    int64_t at = i;
    for (; at > 0 && sample[at - 1] < key; at--) sample[at] = sample[at - 1];
    sample[at] = key;
  }
}

// Partitions around a pivot until the k-th largest is it. The pivot is what the sample says the k-th largest may be; a
// partition that hardly helped is followed by one in the middle of the range where the key must lie, of which 32 end
// the search. So no input makes it slow. Destroys the keys.
template <class V>
Cut find_cut(int32_t* keys, int64_t n, int64_t k) {
  int64_t low = INT32_MIN, high = INT32_MAX;
  bool halve = false;
  for (;;) {
    int32_t sample[kSample];
    take_sample(keys, n, sample);
    if (n <= kSample) {
      int64_t above = 0;
      while (sample[above] > sample[k - 1]) above++;
      return {sample[k - 1], k - above};
    }
    const int32_t pivot = halve ? int32_t((low + high) >> 1) : sample[(k - 1) * kSample / n];
    const Counts counts = V::count(keys, n, pivot);
    const int64_t before = n, not_below = counts.above + counts.equal;
    if (k <= counts.above) {
      n = V::template keep<true>(keys, n, pivot);
      low = int64_t(pivot) + 1;
    } else if (k <= not_below) {
      return {pivot, k - counts.above};
    } else {
      n = V::template keep<false>(keys, n, pivot);
      k -= not_below;
      high = int64_t(pivot) - 1;
    }
    halve = n > before - before / 8;
  }
}

template <class V>
void select_segments(const Args& a, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; s++) {
    const int32_t first = a.begin[s];
    const int64_t n = a.begin[s + 1] - first, k = a.k[s];
    if (k == 0) continue;
    Cut cut{INT32_MIN, n};  // all
    if (k < n) {
      V::keys(a.values + first, n, a.keys + first);
      cut = find_cut<V>(a.keys + first, n, k);
    }
    V::emit(a.values + first, n, first, k, cut, a.index + first);
  }
}

}  // namespace
}  // namespace fth::top_k
