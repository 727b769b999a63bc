// Runs CUDA kernel source on the CPU, for tests. Every CUDA thread is a fiber and every resident block has an OS thread
// of its own, so dynamic shared memory is plain thread-local storage and a barrier of the block is a switch of fibers.
// Asynchronous operations complete at the last moment that the program allows, and until then their destination reads
// as not-a-number: a missing wait fails a test instead of passing by luck. SIMT_ORDER = 0, 1, 2 in the environment
// chooses in which order threads that could run do: forwards, backwards, shuffled (seeded by the block).
//
// What it does not model: memory ordering weaker than the CPU's, the proxy fence between generic and asynchronous
// accesses, fairness, time, coalescing, the rounding of ex2.approx, the order in which tensor cores add.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

// ---- language ------------------------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx (simt::self->tid)
#define blockIdx (simt::self->bid)
#define blockDim (simt::self->block)
#define gridDim (simt::self->grid)

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- engine (simt.cpp, never instrumented) -------------------------------------------------------------------------
namespace simt {

constexpr int kWarp = 32;
constexpr size_t kShared = 227 << 10;  // of a block

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
// What a kernel can see of its thread, and the copies it has begun (cp.async): groups, and the one being filled.
struct Thread {
  uint3 tid, bid;
  dim3 block, grid;
  int linear, threads;
  std::vector<std::vector<Copy>> copies;
  std::vector<Copy> open;
};
struct Arrival {
  int linear;
  void* arg;
};
using Products = std::vector<std::vector<std::function<void()>>>;  // groups of matrix products not yet carried out

extern thread_local Thread* self;
extern thread_local unsigned char arena[kShared];  // dynamic shared memory

Products& products();       // of the calling thread's warpgroup
// One turn of a polling wait; `outside`: what it waits for is another block's to do.
void yield(const char* at, bool outside = false);
[[noreturn]] void fail(const char* why);

// mbarriers, and the bulk copies that complete on them.
void barrier_init(uint64_t* barrier, int arrivals);
void barrier_arrive(uint64_t* barrier, int64_t bytes);
void barrier_wait(uint64_t* barrier, int parity);
bool barrier_done(uint64_t* barrier, int parity);
void bulk_copy(void* to, const void* from, size_t bytes, uint64_t* barrier);

// The one primitive: `want` threads meet under `key`; the last to come runs `act` over everybody's arguments while the
// others sleep, so a collective needs no second barrier and no double buffer.
void meet(const char* op, uint64_t key, int want, void* arg, void (*act)(Arrival*, int, void*), void* context);
// Runs a kernel over a grid. `together`: all blocks are resident at once (cooperative and persistent kernels).
void launch(dim3 grid, dim3 block, size_t shared_bytes, bool together, const std::function<void()>& kernel);

// Work of a stream: carried out at once, or kept while it is being captured.
using Work = std::vector<std::function<void()>>;
void enqueue(std::function<void()> work);
// Later work is kept there; null: it is carried out again.
void capture(Work* into);
Work* captured();  // where it is kept
inline bool capturing() { return captured() != nullptr; }

template <class Act>
void meet(const char* op, uint64_t key, int want, void* arg, Act act) {
  meet(op, key, want, arg, [](Arrival* in, int n, void* c) { (*static_cast<Act*>(c))(in, n); }, &act);
}
// act(T* lanes[32]), null for lanes outside the mask.
template <class T, class Act>
void meet_warp(const char* op, unsigned mask, T* arg, Act act) {
  if (!(mask >> self->linear % kWarp & 1)) fail("calling lane is not in its own mask");
  const uint64_t key = uint64_t(1) << 62 | uint64_t(self->linear / kWarp) << 32 | mask;
  meet(op, key, __builtin_popcount(mask), arg, [&](Arrival* in, int n) {
    T* lanes[kWarp] = {};
    for (int i = 0; i < n; i++) lanes[in[i].linear % kWarp] = static_cast<T*>(in[i].arg);
    act(lanes);
  });
}
// act(T* threads[128]).
template <class T, class Act>
void meet_warpgroup(const char* op, T* arg, Act act) {
  meet(op, uint64_t(3) << 62 | self->linear / 128, 128, arg, [&](Arrival* in, int n) {
    T* threads[128];
    for (int i = 0; i < n; i++) threads[in[i].linear % 128] = static_cast<T*>(in[i].arg);
    act(threads);
  });
}
// A lane gets the value of lane `from`, or keeps its own where there is none.
template <class T>
T shuffle(const char* op, unsigned mask, T value, int from) {
  struct Arg {
    T in, out;
    int from;
  } arg{value, value, from};
  meet_warp(op, mask, &arg, [](Arg** lanes) {
    for (int i = 0; i < kWarp; i++) {
      if (lanes[i] == nullptr) continue;
      const int j = lanes[i]->from;
      if (j >= 0 && j < kWarp && lanes[j] != nullptr) lanes[i]->out = lanes[j]->in;
    }
  });
  return arg.out;
}

}  // namespace simt

// ---- builtins ------------------------------------------------------------------------------------------------------
inline void __syncthreads() {
  simt::meet("__syncthreads", uint64_t(1) << 63, simt::self->threads, nullptr, [](simt::Arrival*, int) {});
}
inline void __syncwarp(unsigned mask = ~0u) {
  int none = 0;
  simt::meet_warp("__syncwarp", mask, &none, [](int**) {});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int x) {
  return simt::shuffle("__shfl_xor_sync", mask, v, simt::self->linear % simt::kWarp ^ x);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, int d) {
  return simt::shuffle("__shfl_down_sync", mask, v, simt::self->linear % simt::kWarp + d);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, int d) {
  return simt::shuffle("__shfl_up_sync", mask, v, simt::self->linear % simt::kWarp - d);
}
template <class T>
T __shfl_sync(unsigned mask, T v, int source) {
  return simt::shuffle("__shfl_sync", mask, v, source & 31);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  struct Arg { int in; unsigned out; } arg{predicate, 0};
  simt::meet_warp("__ballot_sync", mask, &arg, [](Arg** lanes) {
    unsigned bits = 0;
    for (int i = 0; i < simt::kWarp; i++) bits |= unsigned(lanes[i] != nullptr && lanes[i]->in != 0) << i;
    for (int i = 0; i < simt::kWarp; i++) if (lanes[i] != nullptr) lanes[i]->out = bits;
  });
  return arg.out;
}
template <class Better>
unsigned reduce(const char* op, unsigned mask, unsigned v, Better better) {
  simt::meet_warp(op, mask, &v, [better](unsigned** lanes) {
    unsigned* best = nullptr;
    for (int i = 0; i < simt::kWarp; i++)
      if (lanes[i] != nullptr && (best == nullptr || better(*lanes[i], *best))) best = lanes[i];
    const unsigned all = *best;
    for (int i = 0; i < simt::kWarp; i++) if (lanes[i] != nullptr) *lanes[i] = all;
  });
  return v;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) {
  return reduce("__reduce_max_sync", mask, v, [](unsigned a, unsigned b) { return a > b; });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v) {
  return reduce("__reduce_min_sync", mask, v, [](unsigned a, unsigned b) { return a < b; });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(unsigned(v)); }

// Stronger than CUDA's, which is relaxed.
template <class T>
T atomicAdd(T* p, T v) {
  static_assert(std::is_integral_v<T>, "the order of a sum of floats must not depend on timing");
  return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
template <class T>
T atomicMax(T* p, T v) {
  T old = __atomic_load_n(p, __ATOMIC_ACQUIRE);
  while (old < v && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {}
  return old;
}
template <class T>
T atomicExch(T* p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
template <class T>
T atomicCAS(T* p, T want, T v) {
  __atomic_compare_exchange_n(p, &want, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  return want;
}
inline void __threadfence() {}  // the atomics above order already

inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += int8_t(a >> i) * int8_t(b >> i);
  return c;
}
inline float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
inline int __float_as_int(float v) { int i; memcpy(&i, &v, 4); return i; }
inline float __uint_as_float(unsigned v) { float f; memcpy(&f, &v, 4); return f; }
inline unsigned __float_as_uint(float v) { unsigned i; memcpy(&i, &v, 4); return i; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline int __float2int_rn(float v) { return int(nearbyintf(v)); }
template <class T>
T __ldg(const T* p) { return *p; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
