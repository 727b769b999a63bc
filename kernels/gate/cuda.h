// The router of a row by the threads of a team: its logits, four outputs at a time while x is at hand, then what they
// decide, by one warp.
#pragma once
#include "cuda/activation.h"
#include "cuda/four.h"
#include "cuda/order.h"
#include "cuda/team.h"
#include "gate/gate.h"

namespace fth::gate {
namespace {

using namespace gpu;

struct Params {
  Logits logits;
  cuda::Inner inner;
  Decision decision;
};

constexpr int kWarps = kTeam / 32, kTogether = 4;

struct Partials {
  float of_warps[kTogether][kWarps];
};

// z[j] for all outputs j, in shared memory. Ends with a barrier.
__device__ __forceinline__ void compute_logits(const Logits& a, const cuda::Inner& inner, int64_t row,
                                               Partials& partials, float* z) {
  const int64_t at = a.rows == nullptr ? 0 : a.rows[row].depth * a.stride;
  const float *x = a.x + row * a.width, *w = a.w + at, *b = a.b == nullptr ? nullptr : a.b + at;
  const float* bias = inner.bias == nullptr ? nullptr : inner.bias + at;
  const int thread = int(threadIdx.x);
  for (int64_t first = 0; first < a.outputs; first += kTogether) {
    float sum[kTogether] = {};
    for (int64_t k = thread * 4; k < a.width; k += kTeam * 4) {
      Four v = load_four(x + k, a.width - k);
      if (bias != nullptr) {
        const Four u = load_four(bias + k, a.width - k);
        for (int i = 0; i < 4; i++) v.v[i] += u.v[i];
      }
      if (inner.activation != FTH_IDENTITY)
        for (int i = 0; i < 4; i++) v.v[i] = activate(inner.activation, v.v[i]);
      for (int j = 0; j < kTogether; j++) {
        if (first + j >= a.outputs) continue;
        const Four u = load_four(w + (first + j) * a.width + k, a.width - k);
        for (int i = 0; i < 4; i++) sum[j] = fmaf(v.v[i], u.v[i], sum[j]);
      }
    }
    for (int j = 0; j < kTogether; j++) {
      const float total = warp_sum(sum[j]);
      if (thread % 32 == 0) partials.of_warps[j][thread / 32] = total;
    }
    team_barrier();
    if (thread < kTogether && first + thread < a.outputs) {
      float total = 0;
      for (int w = 0; w < kWarps; w++) total += partials.of_warps[thread][w];
      z[first + thread] = total / a.temperature + (b == nullptr ? 0.f : b[first + thread]);
    }
    team_barrier();
  }
}

// alpha * f(z[j]), the same in whatever thread.
struct Function {
  int32_t function;
  float alpha, largest, sum;
  const float* z;

  __device__ float weight(int64_t j) const { return z[j] == largest ? 1.f : expf(z[j] - largest); }
  __device__ float operator()(int64_t j) const {
    switch (function) {
      case FTH_GATE_SIGMOID: return __fmul_rn(alpha, 1 / (1 + expf(-z[j])));
      case FTH_GATE_TANH: return __fmul_rn(alpha, tanhf(z[j]));
      case FTH_GATE_SOFTMAX: return __fmul_rn(alpha, weight(j) / sum);
      default: return __fmul_rn(alpha, z[j]);
    }
  }
};

// By one warp; decide (scalar.cpp) has the rules.
__device__ __forceinline__ void decide_row(const Decision& a, int64_t row, const float* z) {
  const int lane = int(threadIdx.x % 32);
  Function f{a.function, a.alpha, -INFINITY, 0, z};
  if (a.function == FTH_GATE_SOFTMAX) {
    for (int64_t j = lane; j < a.outputs; j += 32) f.largest = fmaxf(f.largest, z[j]);  // NaN: the other
    f.largest = warp_max(f.largest);
    for (int64_t j = lane; j < a.outputs; j += 32) f.sum += f.weight(j);
    f.sum = warp_sum(f.sum);
  }
  uint32_t best = 0, choice = ~0u;
  bool nan = false;
  for (int64_t j = lane; j < a.outputs; j += 32) {
    const float p = f(j), score = __fadd_rn(p, a.bias == nullptr ? 0.f : a.bias[j]);
    if (a.p != nullptr) a.p[row * a.outputs + j] = p;
    nan = nan || score != score;
    if (ordered(score) > best) {
      best = ordered(score);
      choice = uint32_t(j);
    }
  }
  const uint32_t largest = __reduce_max_sync(~0u, best);
  choice = __reduce_min_sync(~0u, best == largest ? choice : ~0u);
  if (__any_sync(~0u, nan)) choice = 0;
  if (lane != 0) return;
  a.gate[row] = f(a.outputs == 1 ? 0 : choice);
  a.choice[row] = a.outputs == 1 ? z[0] >= a.threshold : int32_t(choice);
}

// A row's logits and what they decide. The team's shared memory: shared_bytes(outputs).
__device__ __forceinline__ void gate_row(const Params& p, int64_t row) {
  const Logits& logits = p.logits;
  float* z = shared_memory<float>(sizeof(Partials));
  compute_logits(logits, p.inner, row, *shared_memory<Partials>(), z);
  if (logits.logits != nullptr)
    for (int64_t j = threadIdx.x; j < logits.outputs; j += kTeam) logits.logits[row * logits.outputs + j] = z[j];
  if (threadIdx.x < 32) decide_row(p.decision, row, z);
}

constexpr size_t shared_bytes(int64_t outputs) { return sizeof(Partials) + size_t(outputs) * sizeof(float); }

}  // namespace
}  // namespace fth::gate
