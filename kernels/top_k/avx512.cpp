#include "../simd/avx512.h"
#include "select.h"

namespace fth::top_k::avx512 {
namespace {

__m512i keys_of(__mmask16 lanes, const float* values) {
  const __m512 x = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, values), _mm512_setzero_ps());  // -0 is +0
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i mirrored = _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
  return _mm512_mask_mov_epi32(mirrored, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(INT32_MIN));
}

struct Passes {
  static void keys(const float* values, int64_t n, int32_t* keys) {
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 lanes = lanes16(n - i);
      _mm512_mask_storeu_epi32(keys + i, lanes, keys_of(lanes, values + i));
    }
  }

  static Counts count(const int32_t* keys, int64_t n, int32_t pivot) {
    const __m512i p = _mm512_set1_epi32(pivot), one = _mm512_set1_epi32(1);
    __m512i above = _mm512_setzero_si512(), equal = above;
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 lanes = lanes16(n - i);
      const __m512i key = _mm512_maskz_loadu_epi32(lanes, keys + i);
      above = _mm512_mask_add_epi32(above, _mm512_mask_cmpgt_epi32_mask(lanes, key, p), above, one);
      equal = _mm512_mask_add_epi32(equal, _mm512_mask_cmpeq_epi32_mask(lanes, key, p), equal, one);
    }
    return {_mm512_reduce_add_epi32(above), _mm512_reduce_add_epi32(equal)};
  }

  // What is stored lies at or before what has been read.
  template <bool kAbove>
  static int64_t keep(int32_t* keys, int64_t n, int32_t pivot) {
    const __m512i p = _mm512_set1_epi32(pivot);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 lanes = lanes16(n - i);
      const __m512i key = _mm512_maskz_loadu_epi32(lanes, keys + i);
      const __mmask16 take =
          kAbove ? _mm512_mask_cmpgt_epi32_mask(lanes, key, p) : _mm512_mask_cmplt_epi32_mask(lanes, key, p);
      _mm512_mask_storeu_epi32(keys + kept, lanes, _mm512_maskz_compress_epi32(take, key));
      kept += __builtin_popcount(take);
    }
    return kept;
  }

  static void emit(const float* values, int64_t n, int32_t first, int64_t k, Cut cut, int32_t* index) {
    const __m512i least = _mm512_set1_epi32(cut.least);
    __m512i position = _mm512_add_epi32(_mm512_set1_epi32(first),
                                        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int64_t i = 0; i < n && k > 0; i += 16) {
      const __mmask16 lanes = lanes16(n - i);
      const __m512i key = keys_of(lanes, values + i);
      const uint32_t tied = lowest(_mm512_mask_cmpeq_epi32_mask(lanes, key, least), cut.ties);
      const __mmask16 take = __mmask16(_mm512_mask_cmpgt_epi32_mask(lanes, key, least) | tied);
      const int64_t taken = __builtin_popcount(take);
      _mm512_mask_storeu_epi32(index, lanes16(taken), _mm512_maskz_compress_epi32(take, position));
      cut.ties -= __builtin_popcount(tied);
      index += taken;
      k -= taken;
      position = _mm512_add_epi32(position, _mm512_set1_epi32(16));
    }
  }
};

}  // namespace

void segments(const Args& a, int64_t begin, int64_t end) { select_segments<Passes>(a, begin, end); }

}  // namespace fth::top_k::avx512
