// Weights of a checkpoint into strips (tiles.h).
#include "cuda_input.h"
#include "cuda_tiles.h"
#include "linear.h"

namespace fth::linear {
namespace {

using namespace gpu;

constexpr int kThreads = 128;

// ---- sources -------------------------------------------------------------------------------------------------------

// A block of a Q8_0 or Q4_0 row.
struct Block {
  const uint8_t* at;
  __device__ Block(int32_t type, const void* row, int64_t index)
      : at(static_cast<const uint8_t*>(row) + index * (type == FTH_Q8_0 ? 34 : 18)) {}
  __device__ half d() const { return *reinterpret_cast<const half*>(at); }
  __device__ int code(int32_t type, int i) const {
    const uint8_t* q = at + 2;
    if (type == FTH_Q8_0) return int8_t(q[i]);
    return (i < 16 ? q[i] & 15 : q[i - 16] >> 4) - 8;
  }
};

// An F8_E4M3 row, which may lie anywhere.
struct F8Row {
  const uint8_t* at;
  __device__ explicit F8Row(const void* row) : at(static_cast<const uint8_t*>(row)) {}
  __device__ float scale() const { return __uint_as_float(at[0] | at[1] << 8 | at[2] << 16 | uint32_t(at[3]) << 24); }
  __device__ unsigned code(int64_t i) const { return at[4 + i]; }
  __device__ bool is_nan(int64_t i) const { return (code(i) & 0x7f) == 0x7f; }
};

__device__ __forceinline__ float load(int32_t type, const void* row, int64_t i) {
  switch (type) {
    case FTH_F32: return static_cast<const float*>(row)[i];
    case FTH_BF16: return to_float(static_cast<const bf16*>(row)[i]);
    case FTH_F16: return to_float(static_cast<const half*>(row)[i]);
    case FTH_F8_E4M3: {
      const F8Row from(row);
      return from.is_nan(i) ? NAN : from.scale() * low(lower_codes(from.code(i)));
    }
    default: {
      const Block block(type, row, i / kGroup);
      return to_float(block.d()) * float(block.code(type, int(i % kGroup)));
    }
  }
}

// ---- strips --------------------------------------------------------------------------------------------------------

// A code of x / scale; of what is no number 0, and the scale is NaN.
__device__ __forceinline__ int rounded(float x, int least, int most) {
  return !(x >= float(least)) ? (x < float(least) ? least : 0) : x > float(most) ? most : int(x);
}

// As in simd/scalar.h.
__device__ __forceinline__ unsigned e4m3_of(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
  const float magnitude = fabsf(x);
  if (!(magnitude < 448)) return size > 0x7f800000u ? 0 : sign | 0x7e;
  if (magnitude < 0x1p-6f) return sign | (__float_as_uint(__fadd_rn(magnitude, 0x1p14f)) - __float_as_uint(0x1p14f));
  return sign | (((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120 << 3));
}

// One row of W, or zeros.
struct Row {
  const Packing& p;
  const void* source;  // null: zeros
  unsigned char* strip;
  int row;  // of the strip

  __device__ float value(int64_t i) const {
    return source == nullptr || i >= p.k ? 0.f : load(p.source_type, source, i) * p.scale;
  }
  __device__ unsigned char* chunk(int64_t step, int64_t step_bytes, int number) const {
    return strip + step * step_bytes + swizzled(uint32_t(row * kTileRowBytes + number * 16));
  }
};

// The rules of GGUF files, for 32 values: see native/src/pack.cpp.
__device__ __forceinline__ half quantise_group(int32_t type, const Row& row, int64_t group, int (&code)[kGroup]) {
  const Packing& p = row.p;
  if (row.source != nullptr && group * kGroup < p.k && p.source_type == type && p.scale == 1) {  // the same codes
    const Block block(type, row.source, group);
#pragma unroll
    for (int i = 0; i < kGroup; i++) code[i] = block.code(type, i);
    return block.d();
  }
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < kGroup; i++) {
    const float v = row.value(group * kGroup + i);
    if (fabsf(v) > fabsf(largest)) largest = v;
    finite = finite && fabsf(v) < INFINITY;
  }
  const float d = type == FTH_Q8_0 ? fabsf(largest) / 127 : largest / -8, inverse = d == 0 ? 0 : 1 / d;
#pragma unroll
  for (int i = 0; i < kGroup; i++) {
    const float steps = __fmul_rn(row.value(group * kGroup + i), inverse);
    code[i] = type == FTH_Q8_0 ? rounded(roundf(steps), -127, 127) : rounded(__fadd_rn(steps, 8.5f), 0, 15) - 8;
  }
  return finite ? to_half(d) : half{0x7e00};
}

template <int32_t Type>
__device__ __forceinline__ void pack_floats(const Row& row, int64_t steps) {
  constexpr int kElements = Type == FTH_F32 ? 4 : 8;  // of a chunk
  for (int64_t c = threadIdx.x; c < steps * 8; c += kThreads) {
    unsigned char* to = row.chunk(c / 8, kTileBytes, int(c % 8));
    float v[kElements];
    for (int i = 0; i < kElements; i++) v[i] = row.value(c * kElements + i);
    if constexpr (Type == FTH_F32) *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    else
      *reinterpret_cast<uint4*>(to) = make_uint4(to_bf16x2(v[0], v[1]).bits, to_bf16x2(v[2], v[3]).bits,
                                                 to_bf16x2(v[4], v[5]).bits, to_bf16x2(v[6], v[7]).bits);
  }
}

// The largest magnitude of the block's values for k; infinite if any is not finite.
template <class F>
__device__ __forceinline__ float largest_of(int64_t k, F value) {
  float* partial = shared_memory<float>();
  float most = 0;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    const float size = fabsf(value(i));
    most = fmaxf(most, size < INFINITY ? size : INFINITY);
  }
  most = warp_max(most);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = most;
  __syncthreads();
  for (int i = 0; i < kThreads / 32; i++) most = fmaxf(most, partial[i]);
  return most;
}

__device__ __forceinline__ float& row_scale(const Row& row, int64_t steps) {
  return reinterpret_cast<float*>(row.strip + steps * kTileBytes)[row.row];
}

__device__ __forceinline__ void pack_i8(const Row& row, int64_t steps) {
  const float most = largest_of(row.p.k, [&](int64_t i) { return row.value(i); });
  const bool finite = most < INFINITY;
  const float inverse = most == 0 || !finite ? 0 : 127 / most;
  for (int64_t c = threadIdx.x; c < steps * 8; c += kThreads) {
    uint32_t word[4];
    for (int i = 0; i < 4; i++) {
      int code[4];
      for (int j = 0; j < 4; j++)
        code[j] = rounded(nearbyintf(__fmul_rn(row.value(c * 16 + i * 4 + j), inverse)), -127, 127);
      word[i] = bytes_of(code[0], code[1], code[2], code[3]);
    }
    *reinterpret_cast<uint4*>(row.chunk(c / 8, kTileBytes, int(c % 8))) =
        make_uint4(word[0], word[1], word[2], word[3]);
  }
  if (threadIdx.x == 0) row_scale(row, steps) = finite ? most / 127 : NAN;
}

// Codes as they are if the source has them.
__device__ __forceinline__ void pack_f8(const Row& row, int64_t steps) {
  const bool same = row.source != nullptr && row.p.source_type == FTH_F8_E4M3;
  const F8Row from(row.source);
  const float most = largest_of(row.p.k, [&](int64_t i) {
    return !same ? row.value(i) : from.is_nan(i) ? NAN : 0.f;
  });
  const float inverse = most == 0 ? 0 : 448 / most;
  const auto code = [&](int64_t i) {
    return same ? (i < row.p.k ? from.code(i) : 0) : e4m3_of(__fmul_rn(row.value(i), inverse));
  };
  for (int64_t c = threadIdx.x; c < steps * 8; c += kThreads) {
    uint32_t word[4];
    for (int i = 0; i < 4; i++) {
      const int64_t k = c * 16 + i * 2;
      word[i] = code(k) | code(k + 8) << 8 | code(k + 1) << 16 | code(k + 9) << 24;
    }
    *reinterpret_cast<uint4*>(row.chunk(c / 8, kTileBytes, int(c % 8))) =
        make_uint4(word[0], word[1], word[2], word[3]);
  }
  if (threadIdx.x == 0)
    row_scale(row, steps) = !(most < INFINITY) ? NAN : same ? from.scale() * row.p.scale : most / 448;
}

template <int32_t Type>
__device__ __forceinline__ void pack_groups(const Row& row, int64_t steps) {
  constexpr int kGroups = Type == FTH_Q8_0 ? 4 : 8;  // of a step
  constexpr int64_t kStepBytes = kTileBytes + kTileRows * kGroups * 2;
  for (int64_t group = threadIdx.x; group < steps * kGroups; group += kThreads) {
    int code[kGroup];
    const int64_t step = group / kGroups;
    const int at = int(group % kGroups);
    const half d = quantise_group(Type, row, group, code);
    reinterpret_cast<half*>(row.strip + step * kStepBytes + kTileBytes)[row.row * kGroups + at] = d;
    if constexpr (Type == FTH_Q8_0) {
      for (int h = 0; h < 2; h++) {
        const int* c = code + h * 16;
        *reinterpret_cast<uint4*>(row.chunk(step, kStepBytes, at * 2 + h)) =
            make_uint4(bytes_of(c[0], c[1], c[2], c[3]), bytes_of(c[4], c[5], c[6], c[7]),
                       bytes_of(c[8], c[9], c[10], c[11]), bytes_of(c[12], c[13], c[14], c[15]));
      }
    } else {
      int both[16];
      for (int i = 0; i < 16; i++) both[i] = (code[i] + 8) | (code[i + 16] + 8) << 4;
      *reinterpret_cast<uint4*>(row.chunk(step, kStepBytes, at)) =
          make_uint4(bytes_of(both[0], both[1], both[2], both[3]), bytes_of(both[4], both[5], both[6], both[7]),
                     bytes_of(both[8], both[9], both[10], both[11]), bytes_of(both[12], both[13], both[14], both[15]));
    }
  }
}

// A block per row of W.
__global__ void __launch_bounds__(kThreads) pack_row(const __grid_constant__ Packing p, int64_t steps,
                                                     int64_t strip_bytes) {
  const int64_t number = blockIdx.x;
  const StripRow at(p.first + number, p.half, p.glu);
  const Row row{p,
                number < p.count ? static_cast<const char*>(p.source) + number * p.source_row_bytes : nullptr,
                static_cast<unsigned char*>(p.packed) + at.strip * strip_bytes,
                at.row};
  switch (p.type) {
    case FTH_F32: return pack_floats<FTH_F32>(row, steps);
    case FTH_BF16: return pack_floats<FTH_BF16>(row, steps);
    case FTH_I8: return pack_i8(row, steps);
    case FTH_F8_E4M3: return pack_f8(row, steps);
    case FTH_Q8_0: return pack_groups<FTH_Q8_0>(row, steps);
    default: return pack_groups<FTH_Q4_0>(row, steps);
  }
}

__global__ void __launch_bounds__(kThreads) convert_elements(int32_t type, const void* source, int64_t count,
                                                             float scale, float* out) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) out[i] = load(type, source, i) * scale;
}

dim3 blocks_of(int64_t items, int64_t of_block) { return dim3(unsigned((items + of_block - 1) / of_block)); }

}  // namespace

void cuda::pack(const Packing& p, Stream stream) {
  launch(pack_row, {dim3(unsigned(p.count + p.padding)), dim3(kThreads), 16}, stream, p, tiles::steps(p.type, p.k),
         tiles::strip_bytes(p.type, p.k));
}
void cuda::convert(int32_t type, const void* source, int64_t count, float scale, float* out, Stream stream) {
  launch(convert_elements, {blocks_of(count, kThreads), dim3(kThreads)}, stream, type, source, count, scale, out);
}

}  // namespace fth::linear
