// One block per segment. The k-th largest key is found digit by digit: each pass counts, among the keys that agree with
// the digits found so far, how often every value of the next digit occurs. A last pass writes the positions of what is
// taken, in order. Floor: the values read once; what the passes read again is in a cache for segments that fit.
//
// Counts are integers: threads and their order do not matter.
#include "cuda/block_scan.h"
#include "cuda/four.h"
#include "cuda/order.h"
#include "top_k/top_k.h"

namespace fth::top_k {
namespace {

using namespace gpu;

constexpr int kSmall = 128, kLarge = 1024;  // threads
constexpr int kBins = 2048;                 // values of a digit: 11, 11 and 10 bits of a key

struct Shared {
  int count[kBins];
  int of_warps[kLarge / 32];
  int digit, missing;
};

// What is taken: all keys above the least, and the first `ties` equal to it.
struct Cut {
  uint32_t least;
  int ties;
};

__device__ __forceinline__ Cut find_cut(const float* values, int n, int k, Shared& s) {
  const int threads = int(blockDim.x), thread = int(threadIdx.x);
  Cut cut{0, k};
  uint32_t known = 0;  // the bits of a key whose values have been found
  for (int pass = 0; pass < 3; pass++) {
    const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
    const uint32_t digits = pass == 2 ? 1023 : 2047;
    for (int b = thread; b < kBins; b += threads) s.count[b] = 0;
    __syncthreads();
    for (int at = 0; at < n; at += threads * 4) {
      const int i = at + thread * 4;
      const Four v = load_four(values + i, n - i);
      for (int e = 0; e < 4; e++) {
        const uint32_t key = ordered(v.v[e]);
        const bool counts = i + e < n && (key & known) == cut.least;
        const int digit = counts ? int(key >> shift & digits) : -1;
        // Where values are equal, a warp counts once, not thirty-two times in turn.
        if (__all_sync(~0u, digit == __shfl_sync(~0u, digit, 0))) {
          if (counts && thread % 32 == 0) atomicAdd(&s.count[digit], 32);
        } else if (counts) {
          atomicAdd(&s.count[digit], 1);
        }
      }
    }
    __syncthreads();
    // From the largest digit down, a thread adds up its share; one of them meets the k-th largest.
    const int share = kBins / threads, first = kBins - 1 - thread * share;
    int sum = 0, total;
    for (int b = 0; b < share; b++) sum += s.count[first - b];
    int above = block_scan(threads, sum, s.of_warps, &total);
    if (above < cut.ties && cut.ties <= above + sum) {
      int b = 0;
      for (; above + s.count[first - b] < cut.ties; b++) above += s.count[first - b];
      s.digit = first - b;
      s.missing = cut.ties - above;
    }
    __syncthreads();
    cut.least |= uint32_t(s.digit) << shift;
    cut.ties = s.missing;
    known |= digits << shift;
  }
  return cut;
}

template <int Threads>
__global__ void __launch_bounds__(Threads) select_segment(const __grid_constant__ Args a) {
  const int begin = a.begin[blockIdx.x], n = a.begin[blockIdx.x + 1] - begin, k = a.k[blockIdx.x];
  if (k == 0) return;
  Shared& s = *shared_memory<Shared>();
  const float* values = a.values + begin;
  Cut cut{0, n};  // all
  if (k < n) cut = find_cut(values, n, k, s);
  int above = 0, equal = 0;  // so far
  for (int at = 0; at < n; at += Threads * 4) {
    const int i = at + int(threadIdx.x) * 4;
    const Four v = load_four(values + i, n - i);
    uint32_t key[4];
    int both = 0;  // the number above in the low half, the number equal in the high half
    for (int e = 0; e < 4; e++) {
      key[e] = ordered(v.v[e]);
      if (i + e < n) both += (key[e] > cut.least) + (key[e] == cut.least) * 65536;
    }
    int total;
    const int before = block_scan(Threads, both, s.of_warps, &total);
    int above_before = above + before % 65536, equal_before = equal + before / 65536;
    for (int e = 0; e < 4; e++) {
      if (i + e >= n) continue;
      const bool is_equal = key[e] == cut.least;
      if (key[e] > cut.least || (is_equal && equal_before < cut.ties))
        a.index[begin + above_before + min(equal_before, cut.ties)] = begin + i + e;
      above_before += key[e] > cut.least;
      equal_before += is_equal;
    }
    above += total % 65536;
    equal += total / 65536;
  }
}

}  // namespace

void cuda::segments(const Args& args, int64_t count, int64_t longest, Stream stream) {
  const bool small = longest <= 4 * kSmall;
  launch(small ? select_segment<kSmall> : select_segment<kLarge>,
         {dim3(unsigned(count)), dim3(small ? kSmall : kLarge), sizeof(Shared)}, stream, args);
}

}  // namespace fth::top_k
