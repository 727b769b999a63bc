// Statistics of a chunk of logits, the same bits wherever the logits are: four lanes of a warp share a chunk, so that
// eight chunks take as many steps as one, and their sums are added in a fixed order.
#pragma once
#include "cuda/order.h"
#include "head/head.h"

namespace fth::head {
namespace {

using namespace gpu;

// From chunk to chunk in shared memory: eight of them are read without conflicts of banks.
constexpr int kPitch = int(cuda::kChunk) + 4;
constexpr int kPart = int(cuda::kChunk) / 4;  // of a lane

// The two largest values, as ordered integers: larger ones first, of equal ones the lower id. 0: none yet.
struct Top {
  uint32_t first = 0, second = 0;
  uint32_t first_id = ~0u, second_id = ~0u;

  // After all lower ids.
  __device__ void add(uint32_t value, uint32_t id) {
    if (value > first) {
      second = first;
      second_id = first_id;
      first = value;
      first_id = id;
    } else if (value > second) {
      second = value;
      second_id = id;
    }
  }
  __device__ void merge(const Top& other) {
    const bool ours = before(first, first_id, other.first, other.first_id);
    const uint32_t loser = ours ? other.first : first, loser_id = ours ? other.first_id : first_id;
    const uint32_t rest = ours ? second : other.second, rest_id = ours ? second_id : other.second_id;
    first = ours ? first : other.first;
    first_id = ours ? first_id : other.first_id;
    const bool stays = before(rest, rest_id, loser, loser_id);
    second = stays ? rest : loser;
    second_id = stays ? rest_id : loser_id;
  }
  // With that of the lane whose number differs in this bit.
  __device__ void merge_lanes(int bit) {
    merge({__shfl_xor_sync(~0u, first, bit), __shfl_xor_sync(~0u, second, bit), __shfl_xor_sync(~0u, first_id, bit),
           __shfl_xor_sync(~0u, second_id, bit)});
  }
  __device__ float first_value() const { return first == 0 ? -INFINITY : value_of(first); }
  __device__ float second_value() const { return second == 0 ? -INFINITY : value_of(second); }

 private:
  static __device__ bool before(uint32_t a, uint32_t a_id, uint32_t b, uint32_t b_id) {
    return a > b || (a == b && a_id < b_id);
  }
};

// a - b for a <= b, not below kFarBelow; 0 for equal infinities.
__device__ __forceinline__ float distance(float a, float b) { return a == b ? 0.f : fmaxf(a - b, kFarBelow); }

// Rounded before anything is added to it.
__device__ __forceinline__ float capped(const Args& a, float z) {
  z = __fmul_rn(z, a.scale);
  return a.softcap > 0 ? __fmul_rn(a.softcap, tanhf(z / a.softcap)) : z;
}

// A chunk's number of logits (none, or more than it can have), the id of the first, and where its partial goes.
struct Chunk {
  int64_t columns, first;
  Partial* partial;
};
// Partials of `count` chunks, chunk_of(0) and so on, whose logits, not yet capped, are in shared memory at z, kPitch
// apart. For whole warps of `threads`, of which `thread` is one.
template <class ChunkOf>
__device__ __forceinline__ void partials(const Args& a, const float* z, int count, int thread, int threads,
                                         ChunkOf chunk_of) {
  const int lane = thread % 32, part = lane / 8 * kPart;
#pragma unroll 1
  for (int begin = thread / 32 * 8; begin < count; begin += threads / 4) {
    const int number = begin + lane % 8;
    const Chunk chunk = number < count ? chunk_of(number) : Chunk{};
    float v[kPart];
    Top top;
    bool nan = false;
#pragma unroll
    for (int i = 0; i < kPart; i++) {
      v[i] = part + i < chunk.columns ? capped(a, z[number * kPitch + part + i]) : -INFINITY;
      nan = nan || v[i] != v[i];
      if (part + i < chunk.columns) top.add(ordered(v[i]), uint32_t(chunk.first) + part + i);
    }
    top.merge_lanes(8);
    top.merge_lanes(16);
    nan = (__ballot_sync(~0u, nan) & 0x01010101u << lane % 8) != 0;
    const float largest = top.first_value();
    float sum = 0, slope = 0;
#pragma unroll
    for (int i = 0; i < kPart; i++) {
      if (part + i >= chunk.columns) continue;
      const float d = distance(v[i], largest), e = expf(d);
      sum += e;
      slope = fmaf(d, e, slope);
    }
    for (int bit = 8; bit <= 16; bit *= 2) {
      sum += __shfl_xor_sync(~0u, sum, bit);
      slope += __shfl_xor_sync(~0u, slope, bit);
    }
    if (lane < 8 && chunk.columns > 0)
      *chunk.partial = {int32_t(top.first_id), int32_t(top.second_id), nan ? NAN : largest, top.second_value(), sum,
                        slope};
  }
}

}  // namespace
}  // namespace fth::head
