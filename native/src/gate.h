// Routers without the C boundary, for the recursion.
#pragma once
#include "gate/gate.h"
#include "linear.h"

namespace fth {

// One depth's router: an MLP's inner layer, packed W1 and b1, then the last layer, W [outputs, width] and b.
struct Router {
  WeightShape inner;  // W1; only with `mlp`
  int64_t width, outputs;
  int32_t depths;
  bool mlp, bias;

  Router(const fth_context* ctx, const fth_gate_shape& s)
      : inner{s.hidden_size, s.inner_size, FTH_F32, false, FTH_ON_DEVICE(ctx)},
        width(s.router == FTH_ROUTER_MLP ? s.inner_size : s.hidden_size),
        outputs(s.outputs),
        depths(s.depths),
        mlp(s.router == FTH_ROUTER_MLP),
        bias(s.bias != 0) {}
  int64_t inner_bias_offset() const { return mlp ? inner.bytes() : 0; }
  int64_t last_offset() const { return inner_bias_offset() + (mlp && bias ? round_up(inner.out * 4, 64) : 0); }
  int64_t last_bias_offset() const { return last_offset() + outputs * width * 4; }
  int64_t stride() const { return round_up(last_bias_offset() + (bias ? outputs * 4 : 0), 64); }
  int64_t bytes() const { return stride() * depths; }
  size_t alignment() const { return mlp ? inner.alignment() : 4; }
};

bool check_gate(Check& check, const fth_gate_shape* shape);

// What is decided of each row of a call: as fth_gate has it.
struct GateResults {
  float *logits, *p;  // or null
  float* gate;
  int32_t* choice;
};
// Arguments are taken as checked, all addresses are those that kernels read; `scratch` is where kernels run.
void run_gate(fth_context* ctx, const fth_gate_shape& shape, int64_t count, const fth_row* rows, const float* x,
              const void* packed, const float* choice_bias, const GateResults& to, char* scratch);
size_t gate_scratch(const fth_context* ctx, const fth_gate_shape& shape, int64_t count, bool with_logits);

}  // namespace fth
