// Routers and exit heads: a few logits per row, and what they decide.
#pragma once
#include <cstdint>

#include "cuda/queue.h"
#include "fathom/fathom.h"

namespace fth::gate {

// logits[i][j] = x[i] . w[d][j] / temperature + b[d][j], d the depth of row i, in fp32. The order of a sum depends on
// the width alone.
struct Logits {
  const float* x;       // [rows, width]
  const fth_row* rows;  // depth of each row, or null: all 0
  const float* w;       // [outputs, width] for each depth
  const float* b;       // [outputs] for each depth, or null: 0
  int64_t stride;       // floats from depth to depth, of w and of b
  int64_t width;
  int64_t outputs;
  float temperature;
  float* logits;        // [rows, outputs]
};
using LogitRows = void(const Logits&, int64_t begin, int64_t end);  // rows [begin, end)
namespace scalar { LogitRows logits; }
namespace avx2 { LogitRows logits; }
namespace avx512 { LogitRows logits; }

struct Decision {
  const float* logits;  // [rows, outputs]
  const float* bias;    // [outputs] or null: 0; for the choice only
  int64_t outputs;
  int32_t function;     // FTH_GATE_*
  float alpha;
  float threshold;
  float* p;             // [rows, outputs] or null
  float* gate;          // [rows]
  int32_t* choice;      // [rows]
};
// The same for all CPU targets.
void decide(const Decision&, int64_t begin, int64_t end);

// All pointers on the device.
namespace cuda {
// What an MLP's inner layer lacks when its products have been made: Logits::x becomes activation(x + bias_d).
struct Inner {
  const float* bias;  // [width] for each depth, as far from one another as Logits::b are, or null: 0
  int32_t activation;
};
// Both at once: Decision::logits is not read, Logits::logits may be null.
void rows(const Logits&, const Inner&, const Decision&, int64_t count, const gpu::Queue&);
// y = x / by.
void divide(const float* x, float by, int64_t count, float* y, void* stream);
}  // namespace cuda

}  // namespace fth::gate
