// The CPU bodies of kernels/cuda/primitives.h, in front of it on the include path. Same names, same signatures.
#pragma once
#include <algorithm>

#include "../simt.h"
#include "../../../kernels/cuda/types.h"

namespace fth::gpu {

template <class T>
T* shared_memory(size_t offset = 0) { return reinterpret_cast<T*>(simt::arena + offset); }
inline uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - simt::arena);
}

// ---- numbers -------------------------------------------------------------------------------------------------------

inline bf16 to_bf16(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  if (v != v) return {0x7fff};
  return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline bf16x2 to_bf16x2(float low, float high) {
  return {uint32_t(to_bf16(low).bits) | uint32_t(to_bf16(high).bits) << 16};
}
inline bf16x2 times(bf16x2 a, bf16x2 b) { return to_bf16x2(low(a) * low(b), high(a) * high(b)); }
inline float to_float(half v) {
  const int exponent = v.bits >> 10 & 31, mantissa = v.bits & 1023;
  const float magnitude = exponent == 31 ? (mantissa != 0 ? NAN : INFINITY)
                          : exponent == 0 ? ldexpf(float(mantissa), -24)
                                          : ldexpf(float(1024 + mantissa), exponent - 25);
  return v.bits >> 15 ? -magnitude : magnitude;
}
inline half to_half(float v) {
  const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  const float a = fabsf(v);
  if (a != a) return {0x7fff};
  if (a >= 65520) return {uint16_t(sign | 0x7c00)};
  if (a < 0x1p-14f) return {uint16_t(sign | uint16_t(nearbyintf(a * 0x1p24f)))};
  int exponent;
  const float fraction = frexpf(a, &exponent);  // in [0.5, 1)
  const int mantissa = int(nearbyintf(fraction * 2048)) - 1024;
  return {uint16_t(sign | uint16_t(((exponent + 14) << 10) + mantissa))};
}
inline float exp2_fast(float x) { return exp2f(x); }

// ---- loads ---------------------------------------------------------------------------------------------------------

template <class T>
T load_fresh(const T* p) { return *p; }

// ---- asynchronous copies of a thread: they land when waited for ----------------------------------------------------

template <size_t Bytes>
void copy_if(bool there, void* to, const void* from) {
  if (uintptr_t(to) % Bytes != 0 || uintptr_t(from) % Bytes != 0) simt::fail("cp.async: address not aligned");
  memset(to, 0xff, Bytes);
  simt::self->open.push_back({to, there ? from : nullptr, Bytes});
}
inline void copy16_if(bool there, void* to, const void* from) { copy_if<16>(there, to, from); }
inline void copy4_if(bool there, void* to, const void* from) { copy_if<4>(there, to, from); }
inline void copy16(void* to, const void* from) { copy16_if(true, to, from); }
inline void copy_commit() {
  simt::self->copies.push_back(std::move(simt::self->open));
  simt::self->open.clear();
}
template <int Pending>
void copy_wait() {
  auto& groups = simt::self->copies;
  while (groups.size() > Pending) {
    for (const simt::Copy& c : groups.front()) {
      if (c.from != nullptr) memcpy(c.to, c.from, c.bytes);
      else memset(c.to, 0, c.bytes);
    }
    groups.erase(groups.begin());
  }
}

// ---- bulk copies and their barriers --------------------------------------------------------------------------------

struct alignas(8) Barrier { uint64_t word; };
inline void barrier_init(Barrier* b, int arrivals) { simt::barrier_init(&b->word, arrivals); }
inline void barrier_init_fence() {}
inline void barrier_arrive(Barrier* b) { simt::barrier_arrive(&b->word, 0); }
inline void barrier_expect(Barrier* b, int bytes) { simt::barrier_arrive(&b->word, bytes); }
inline void barrier_wait(Barrier* b, int parity) { simt::barrier_wait(&b->word, parity); }
inline bool barrier_done(Barrier* b, int parity) { return simt::barrier_done(&b->word, parity); }
inline void bulk_copy(void* to, const void* from, int bytes, Barrier* b) {
  simt::bulk_copy(to, from, size_t(bytes), &b->word);
}
inline void bulk_copy_once(void* to, const void* from, int bytes, Barrier* b) { bulk_copy(to, from, bytes, b); }
inline void proxy_fence() {}

// ---- products of a warp --------------------------------------------------------------------------------------------

template <bool Transposed>
void load_matrix(uint32_t (&r)[4], const void* row) {
  struct Arg {
    uint32_t* r;
    const uint16_t* row;
  } arg{r, static_cast<const uint16_t*>(row)};
  if (uintptr_t(row) % 16 != 0) simt::fail("ldmatrix: row not 16-byte aligned");
  simt::meet_warp(Transposed ? "ldmatrix.trans" : "ldmatrix", ~0u, &arg, [](Arg** lanes) {
    for (int m = 0; m < 4; m++)
      for (int i = 0; i < 32; i++) {
        const int x = i / 4, y = i % 4 * 2;
        uint16_t v[2];
        for (int k = 0; k < 2; k++)
          v[k] = Transposed ? lanes[m * 8 + y + k]->row[x] : lanes[m * 8 + x]->row[y + k];
        lanes[i]->r[m] = v[0] | uint32_t(v[1]) << 16;
      }
  });
}
inline void load_matrix_x4(uint32_t (&r)[4], const void* row) { load_matrix<false>(r, row); }
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) { load_matrix<true>(r, row); }

inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Arg {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
  } arg{d, a, {b0, b1}};
  simt::meet_warp("mma.m16n8k16", ~0u, &arg, [](Arg** lanes) {
    float A[16][16], B[16][8], D[16][8] = {};
    for (int i = 0; i < 32; i++)
      for (int h = 0; h < 2; h++) {
        const int g = i / 4, c = i % 4 * 2 + h;
        const auto half_of = [h](uint32_t w) { return to_float(bf16{uint16_t(h ? w >> 16 : w)}); };
        A[g][c] = half_of(lanes[i]->a[0]);
        A[g + 8][c] = half_of(lanes[i]->a[1]);
        A[g][c + 8] = half_of(lanes[i]->a[2]);
        A[g + 8][c + 8] = half_of(lanes[i]->a[3]);
        B[c][g] = half_of(lanes[i]->b[0]);
        B[c + 8][g] = half_of(lanes[i]->b[1]);
      }
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++) D[m][n] += A[m][k] * B[k][n];
    for (int i = 0; i < 32; i++)
      for (int h = 0; h < 2; h++) {
        lanes[i]->d[h] += D[i / 4][i % 4 * 2 + h];
        lanes[i]->d[2 + h] += D[i / 4 + 8][i % 4 * 2 + h];
      }
  });
}

inline void mma_16x8x32(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Arg {
    int* d;
    const uint32_t* a;
    uint32_t b[2];
  } arg{d, a, {b0, b1}};
  simt::meet_warp("mma.m16n8k32", ~0u, &arg, [](Arg** lanes) {
    int8_t A[16][32], B[32][8];
    int D[16][8] = {};
    for (int i = 0; i < 32; i++)
      for (int h = 0; h < 4; h++) {
        const int g = i / 4, c = i % 4 * 4 + h;
        const auto byte_of = [h](uint32_t w) { return int8_t(w >> 8 * h); };
        A[g][c] = byte_of(lanes[i]->a[0]);
        A[g + 8][c] = byte_of(lanes[i]->a[1]);
        A[g][c + 16] = byte_of(lanes[i]->a[2]);
        A[g + 8][c + 16] = byte_of(lanes[i]->a[3]);
        B[c][g] = byte_of(lanes[i]->b[0]);
        B[c + 16][g] = byte_of(lanes[i]->b[1]);
      }
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 32; k++)
        for (int n = 0; n < 8; n++) D[m][n] += A[m][k] * B[k][n];
    for (int i = 0; i < 32; i++)
      for (int h = 0; h < 2; h++) {
        lanes[i]->d[h] += D[i / 4][i % 4 * 2 + h];
        lanes[i]->d[2 + h] += D[i / 4 + 8][i % 4 * 2 + h];
      }
  });
}

// ---- products of a warpgroup: carried out when waited for, from what shared memory holds then ----------------------

inline uint64_t tile_descriptor(const void* p) {
  return uint64_t((shared_address(p) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
inline void wgmma_begin() {}
struct WarpgroupProduct {
  float* d;
  uint64_t a, b;
  const uint32_t* registers = nullptr;  // A, if it is not an image
};
// What the tensor core would read.
inline float element(const unsigned char* shared, uint64_t descriptor, int row, int k) {
  if (descriptor >> 62 != 1) simt::fail("wgmma: only the 128-byte swizzle is emulated");
  const uint32_t base = uint32_t(descriptor & 0x3fff) * 16, stride = uint32_t(descriptor >> 32 & 0x3fff) * 16;
  const uint32_t at = base + uint32_t(row) / 8 * stride + uint32_t(row) % 8 * 128 + uint32_t(k) * 2;
  return to_float(*reinterpret_cast<const bf16*>(shared + swizzled(at)));
}
template <int N>
void wgmma(const WarpgroupProduct& arg) {
  WarpgroupProduct mine = arg;
  simt::meet_warpgroup("wgmma", &mine, [&](WarpgroupProduct** w) {
    std::vector<float*> out(128);
    std::vector<uint32_t> registers(arg.registers != nullptr ? 512 : 0);  // as they are now: they must not change
    for (int i = 0; i < 128; i++) {
      out[i] = w[i]->d;
      if (w[i]->a != arg.a || w[i]->b != arg.b) simt::fail("wgmma: descriptors differ inside the warpgroup");
      if (arg.registers != nullptr) std::copy(w[i]->registers, w[i]->registers + 4, registers.begin() + i * 4);
    }
    auto& groups = simt::products();
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back([out, registers, arg, shared = static_cast<const unsigned char*>(simt::arena)] {
      float A[64][16], B[N][16];
      for (int k = 0; k < 16; k++) {
        for (int r = 0; r < 64; r++) {
          const int lane = r / 16 * 32 + r % 8 * 4 + k % 8 / 2, at = r % 16 / 8 + k / 8 * 2;
          A[r][k] = registers.empty() ? element(shared, arg.a, r, k)
                                      : to_float(bf16{uint16_t(registers[size_t(lane * 4 + at)] >> k % 2 * 16)});
        }
        for (int r = 0; r < N; r++) B[r][k] = element(shared, arg.b, r, k);
      }
      for (int t = 0; t < 128; t++)
        for (int i = 0; i < N / 2; i++) {
          const int row = t / 32 * 16 + t % 32 / 4 + (i & 2) * 4, column = i / 4 * 8 + t % 4 * 2 + (i & 1);
          float sum = 0;
          for (int k = 0; k < 16; k++) sum += A[row][k] * B[column][k];
          out[t][i] += sum;
        }
    });
  });
}
template <int N>
void wgmma_64xNx16(float (&d)[N / 2], const void* a, const void* b) {
  wgmma<N>({d, tile_descriptor(a), tile_descriptor(b)});
}
template <int N>
void wgmma_64xNx16(float (&d)[N / 2], const uint32_t (&a)[4], const void* b) {
  wgmma<N>({d, 0, tile_descriptor(b), a});
}
inline void wgmma_commit() {
  WarpgroupProduct none{};
  simt::meet_warpgroup("wgmma.commit", &none, [](WarpgroupProduct**) { simt::products().emplace_back(); });
}
template <int Pending>
void wgmma_wait() {
  WarpgroupProduct none{};
  simt::meet_warpgroup("wgmma.wait", &none, [](WarpgroupProduct**) {
    auto& groups = simt::products();
    while (groups.size() > Pending + 1) {
      for (auto& product : groups.front()) product();
      groups.erase(groups.begin());
    }
  });
}

// ---- warps ---------------------------------------------------------------------------------------------------------

// One meeting instead of five; the order of the sum is that of the shuffles.
template <class Op>
float warp_reduce(const char* name, float v, Op op) {
  simt::meet_warp(name, ~0u, &v, [op](float** lanes) {
    float in[32];
    for (int i = 0; i < 32; i++) in[i] = *lanes[i];
    for (int x = 16; x > 0; x /= 2) {
      float out[32];
      for (int i = 0; i < 32; i++) out[i] = op(in[i], in[i ^ x]);
      std::copy(out, out + 32, in);
    }
    for (int i = 0; i < 32; i++) *lanes[i] = in[i];
  });
  return v;
}
inline float warp_sum(float v) {
  return warp_reduce("warp_sum", v, [](float a, float b) { return a + b; });
}
inline float warp_max(float v) {
  return warp_reduce("warp_max", v, [](float a, float b) { return fmaxf(a, b); });
}
inline int warp_scan(int v) {
  simt::meet_warp("warp_scan", ~0u, &v, [](int** lanes) {
    for (int i = 1; i < 32; i++) *lanes[i] += *lanes[i - 1];
  });
  return v;
}
inline void group_barrier(int id, int threads) {
  simt::meet("bar.sync", uint64_t(1) << 63 | uint64_t(id), threads, nullptr, [](simt::Arrival*, int) {});
}
inline bool group_any(int id, int threads, bool predicate) {
  int any = predicate;
  simt::meet("bar.red", uint64_t(1) << 63 | uint64_t(id), threads, &any, [](simt::Arrival* in, int n) {
    int or_of_all = 0;
    for (int i = 0; i < n; i++) or_of_all |= *static_cast<int*>(in[i].arg);
    for (int i = 0; i < n; i++) *static_cast<int*>(in[i].arg) = or_of_all;
  });
  return any != 0;
}
template <int Registers>
void give_registers() {}
template <int Registers>
void take_registers() {}

// ---- counters in global memory -------------------------------------------------------------------------------------

inline void count_up(unsigned* counter) { __atomic_fetch_add(counter, 1u, __ATOMIC_ACQ_REL); }
inline bool reached(const unsigned* counter, unsigned at_least) {
  const bool is = int(__atomic_load_n(counter, __ATOMIC_ACQUIRE) - at_least) >= 0;
  if (!is) simt::yield("counter in global memory", true);
  return is;
}
inline void wait_for(const unsigned* counter, unsigned at_least) {
  while (!reached(counter, at_least)) {
  }
}

// ---- launch --------------------------------------------------------------------------------------------------------

inline void dependents_go() {}
inline void dependents_wait() {}

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
  bool together = false, early = false;
};
template <class... P, class... A>
void launch(void (*kernel)(P...), const Grid& grid, Stream, A... arguments) {
  simt::enqueue([=] {
    simt::launch(grid.blocks, grid.threads, grid.shared_bytes, grid.together, [=] { kernel(P(arguments)...); });
  });
}

}  // namespace fth::gpu
