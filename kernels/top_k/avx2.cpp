#include "../simd/avx2.h"
#include "select.h"

namespace fth::top_k::avx2 {
namespace {

// For each set of lanes a permutation that moves them to the front, in order.
struct Table {
  uint8_t lane[256][8];
  constexpr Table() : lane{} {
    for (int set = 0; set < 256; set++) {
      int at = 0;
      for (uint8_t i = 0; i < 8; i++)
        if (set >> i & 1) lane[set][at++] = i;
    }
  }
};
constexpr Table kToFront;

__m256i to_front(__m256i v, uint32_t set) {
  const __m128i lanes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kToFront.lane[set]));
  return _mm256_permutevar8x32_epi32(v, _mm256_cvtepu8_epi32(lanes));
}

uint32_t bits_of(__m256i mask) { return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(mask))); }

__m256i mirrored_keys(__m256 x) {
  x = _mm256_add_ps(x, _mm256_setzero_ps());  // -0 is +0
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i mirrored = _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(mirrored, _mm256_set1_epi32(INT32_MIN), nan);
}

__m256i load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
void store(int32_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

struct Passes {
  static void keys(const float* values, int64_t n, int32_t* keys) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) store(keys + i, mirrored_keys(_mm256_loadu_ps(values + i)));
    const __m256i lanes = lanes8(n - i);
    _mm256_maskstore_epi32(keys + i, lanes, mirrored_keys(_mm256_maskload_ps(values + i, lanes)));
  }

  static Counts count(const int32_t* keys, int64_t n, int32_t pivot) {
    const __m256i p = _mm256_set1_epi32(pivot);
    __m256i above = _mm256_setzero_si256(), equal = above;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      above = _mm256_sub_epi32(above, _mm256_cmpgt_epi32(load(keys + i), p));
      equal = _mm256_sub_epi32(equal, _mm256_cmpeq_epi32(load(keys + i), p));
    }
    const __m256i lanes = lanes8(n - i), key = _mm256_maskload_epi32(keys + i, lanes);
    above = _mm256_sub_epi32(above, _mm256_and_si256(lanes, _mm256_cmpgt_epi32(key, p)));
    equal = _mm256_sub_epi32(equal, _mm256_and_si256(lanes, _mm256_cmpeq_epi32(key, p)));
    return {sum(above), sum(equal)};
  }

  // What is stored lies at or before what has been read.
  template <bool kAbove>
  static int64_t keep(int32_t* keys, int64_t n, int32_t pivot) {
    const __m256i p = _mm256_set1_epi32(pivot);
    const auto chosen = [p](__m256i key) { return kAbove ? _mm256_cmpgt_epi32(key, p) : _mm256_cmpgt_epi32(p, key); };
    int64_t kept = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
      const __m256i key = load(keys + i);
      const uint32_t take = bits_of(chosen(key));
      store(keys + kept, to_front(key, take));
      kept += __builtin_popcount(take);
    }
    const __m256i lanes = lanes8(n - i), key = _mm256_maskload_epi32(keys + i, lanes);
    const uint32_t take = bits_of(_mm256_and_si256(lanes, chosen(key)));
    _mm256_maskstore_epi32(keys + kept, lanes, to_front(key, take));
    return kept + __builtin_popcount(take);
  }

  static void emit(const float* values, int64_t n, int32_t first, int64_t k, Cut cut, int32_t* index) {
    const __m256i least = _mm256_set1_epi32(cut.least);
    __m256i position = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int64_t i = 0; i < n && k > 0; i += 8) {
      const __m256i lanes = lanes8(n - i < 8 ? n - i : 8);
      const __m256i key = mirrored_keys(_mm256_maskload_ps(values + i, lanes));
      const uint32_t tied = lowest(bits_of(_mm256_and_si256(lanes, _mm256_cmpeq_epi32(key, least))), cut.ties);
      const uint32_t take = tied | bits_of(_mm256_and_si256(lanes, _mm256_cmpgt_epi32(key, least)));
      const int64_t taken = __builtin_popcount(take);
      // A whole store needs room for eight more positions.
      if (k >= 8) store(index, to_front(position, take));
      else _mm256_maskstore_epi32(index, lanes8(taken), to_front(position, take));
      cut.ties -= __builtin_popcount(tied);
      index += taken;
      k -= taken;
      position = _mm256_add_epi32(position, _mm256_set1_epi32(8));
    }
  }

 private:
  static int64_t sum(__m256i v) {
    alignas(32) int32_t lane[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), v);
    int64_t total = 0;
    for (int i = 0; i < 8; i++) total += lane[i];
    return total;
  }
};

}  // namespace

void segments(const Args& a, int64_t begin, int64_t end) { select_segments<Passes>(a, begin, end); }

}  // namespace fth::top_k::avx2
