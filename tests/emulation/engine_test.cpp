// The engine finds the mistakes it is there to find: each case is a small kernel, right or with one mistake planted, run
// in a process of its own in all three schedules.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "cuda/grid.h"

using namespace fth::gpu;

namespace {

constexpr int kThreads = 64;
constexpr int kWrong = 1;  // exit status of a case whose result is wrong

// ---- a sum over two warps through shared memory ----
template <bool Barrier>
__global__ void sum_block(const float* x, float* y) {
  float* partial = shared_memory<float>();
  const float v = warp_sum(x[threadIdx.x]);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  if (Barrier) __syncthreads();
  if (threadIdx.x == 0) *y = partial[0] + partial[1];
}
template <bool Barrier>
bool sum() {
  float x[kThreads], y = 0;
  for (int i = 0; i < kThreads; i++) x[i] = float(i);
  launch(sum_block<Barrier>, {1, kThreads, 2 * sizeof(float)}, nullptr, static_cast<const float*>(x), &y);
  return y == kThreads * (kThreads - 1) / 2;
}

__global__ void shuffle_in_branch(float* y) {
  float v = float(threadIdx.x);
  if (threadIdx.x % 2 == 0) v = __shfl_xor_sync(~0u, v, 1);
  y[threadIdx.x] = v;
}
bool divergent() {
  float y[kThreads];
  launch(shuffle_in_branch, {1, kThreads}, nullptr, y);
  return true;
}

// ---- cp.async ----
template <int Pending, bool Wait>
__global__ void copy_through(const float* x, float* y) {
  float* tile = shared_memory<float>();
  for (int g = 0; g < 2; g++) {
    copy16(tile + g * 256 + threadIdx.x * 4, x + g * 256 + threadIdx.x * 4);
    copy_commit();
  }
  if (Wait) copy_wait<Pending>();
  __syncthreads();
  for (int i = threadIdx.x; i < 512; i += kThreads) y[i] = tile[i];
}
template <int Pending, bool Wait>
bool copies() {
  alignas(16) static float x[512], y[512];
  for (int i = 0; i < 512; i++) x[i] = float(i);
  launch(copy_through<Pending, Wait>, {1, kThreads, sizeof x}, nullptr, static_cast<const float*>(x),
         static_cast<float*>(y));
  return memcmp(x, y, sizeof x) == 0;
}

// ---- a ring of two stages filled by bulk copies ----
enum Ring { kRight, kNoEmpty, kNoFull, kWrongParity, kTooFewBytes, kNotMade };
template <Ring Mistake>
__global__ void ring(const float* x, float* y, int steps) {
  struct Shared {
    float stage[2][32];
    Barrier full[2], empty[2];
  };
  Shared& s = *shared_memory<Shared>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (Mistake != kNotMade && threadIdx.x == 0)
    for (int i = 0; i < 2; i++) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], 32);
    }
  barrier_init_fence();
  __syncthreads();
  if (warp == 1) {
    if (lane == 0)
      for (int n = 0; n < steps; n++) {
        const int i = n % 2;
        if (Mistake != kNoEmpty) barrier_wait(&s.empty[i], (n / 2 & 1) ^ 1);
        barrier_expect(&s.full[i], Mistake == kTooFewBytes ? 112 : 128);
        bulk_copy(s.stage[i], x + n * 32, 128, &s.full[i]);
      }
    return;
  }
  for (int n = 0; n < steps; n++) {
    const int i = n % 2;
    if (Mistake != kNoFull) barrier_wait(&s.full[i], (n / 2 & 1) ^ (Mistake == kWrongParity));
    y[n * 32 + lane] = s.stage[i][lane];
    barrier_arrive(&s.empty[i]);
  }
}
template <Ring Mistake>
bool rings() {
  constexpr int kSteps = 6;
  alignas(16) static float x[kSteps * 32], y[kSteps * 32];
  for (int i = 0; i < kSteps * 32; i++) x[i] = float(i);
  launch(ring<Mistake>, {1, kThreads, 512}, nullptr, static_cast<const float*>(x), static_cast<float*>(y), kSteps);
  return memcmp(x, y, sizeof x) == 0;
}

// ---- wgmma ----
template <bool Wait, bool Swizzle>
__global__ void product(const bf16* w, const bf16* x, float* y) {
  unsigned char* a = shared_memory<unsigned char>();
  unsigned char* b = shared_memory<unsigned char>(kTileBytes);
  for (uint32_t i = threadIdx.x; i < 64 * 64; i += 128)
    *reinterpret_cast<bf16*>(a + (Swizzle ? swizzled(i * 2) : i * 2)) = w[i];
  for (uint32_t i = threadIdx.x; i < 8 * 64; i += 128) *reinterpret_cast<bf16*>(b + swizzled(i * 2)) = x[i];
  proxy_fence();
  __syncthreads();
  float d[4] = {};
  wgmma_begin();
  for (int k = 0; k < 4; k++) wgmma_64xNx16<8>(d, a + k * 32, b + k * 32);
  wgmma_commit();
  if (Wait) wgmma_wait<0>();
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
  for (int i = 0; i < 4; i++) y[(threadIdx.x % 4 * 2 + (i & 1)) * 64 + row + (i & 2) * 4] = d[i];
}
template <bool Wait, bool Swizzle>
bool products() {
  static bf16 w[64 * 64], x[8 * 64];
  static float y[8 * 64];
  for (int i = 0; i < 64 * 64; i++) w[i] = to_bf16(float(i * 7 % 13 - 6));
  for (int i = 0; i < 8 * 64; i++) x[i] = to_bf16(float(i * 5 % 11 - 5));
  launch(product<Wait, Swizzle>, {1, 128, 2 * kTileBytes}, nullptr, static_cast<const bf16*>(w),
         static_cast<const bf16*>(x), static_cast<float*>(y));
  for (int n = 0; n < 8; n++)
    for (int m = 0; m < 64; m++) {
      float sum = 0;
      for (int k = 0; k < 64; k++) sum += to_float(w[m * 64 + k]) * to_float(x[n * 64 + k]);
      if (y[n * 64 + m] != sum) return false;
    }
  return true;
}

// ---- blocks that wait for one another ----
template <bool Together>
__global__ void hand_over(unsigned* counter, int* y) {
  y[blockIdx.x] = int(blockIdx.x);
  grid_barrier(counter, 0);
  if (threadIdx.x == 0) y[blockIdx.x + gridDim.x] = load_fresh(y + (blockIdx.x + 1) % gridDim.x);
}
bool hand_overs() {
  unsigned counter = 0;
  int y[8] = {};
  launch(hand_over<true>, {4, 32, 0, true}, nullptr, &counter, static_cast<int*>(y));
  for (int i = 0; i < 4; i++)
    if (y[4 + i] != (i + 1) % 4) return false;
  return true;
}

__global__ void write_behind(int) { shared_memory<int>()[4] = 0; }
bool behind() {
  launch(write_behind, {1, 32, 16}, nullptr, 0);
  return true;
}

struct Case {
  const char* name;
  bool (*run)();
  bool right;  // else it must fail in at least one schedule
};
const Case kCases[] = {
    {"sum", sum<true>, true},
    {"sum without barrier", sum<false>, false},
    {"shuffle in a branch", divergent, false},
    {"copies", copies<0, true>, true},
    {"copies, one group too many pending", copies<1, true>, false},
    {"copies without wait", copies<0, false>, false},
    {"ring", rings<kRight>, true},
    {"ring that ignores empty", rings<kNoEmpty>, false},
    {"ring that ignores full", rings<kNoFull>, false},
    {"ring with the wrong parity", rings<kWrongParity>, false},
    {"ring with too few bytes announced", rings<kTooFewBytes>, false},
    {"ring with barriers that were not made", rings<kNotMade>, false},
    {"product", products<true, true>, true},
    {"product without wait", products<false, true>, false},
    {"product of a tile that is not swizzled", products<true, false>, false},
    {"grid barrier", hand_overs, true},
    {"write behind shared memory", behind, false},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) return kCases[atoi(argv[1])].run() ? 0 : kWrong;
  int failed = 0;
  for (int i = 0; i < int(sizeof kCases / sizeof *kCases); i++) {
    bool found = false;
    for (int order = 0; order < 3; order++) {
      const std::string command = "SIMT_ORDER=" + std::to_string(order) + " exec " + argv[0] + " " + std::to_string(i) +
                                  " 2>/dev/null";
      const int status = system(command.c_str());
      found = found || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    if (found == kCases[i].right) {
      printf("%s: %s\n", kCases[i].name, found ? "fails" : "passes");
      failed++;
    }
  }
  printf("%d cases, %d not as they should be\n", int(sizeof kCases / sizeof *kCases), failed);
  return failed != 0;
}
