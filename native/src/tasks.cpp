#include "tasks.h"

namespace fth {

int64_t most_tasks(const fth_context* ctx, const fth_block_shape& block, const fth_gate_shape* gate, int64_t passes) {
  // Operations of a layer (norms, inputs of both kinds, products and their LoRA pairs, rope, K and V, attention), and
  // of a pass beside its layers.
  constexpr int64_t kOfLayer = 43, kOfPass = 9, kMost = 1 << 14;
  const bool possible = FTH_ON_DEVICE(ctx) && ctx->device->records() && block.weight_type != FTH_F32 &&
                        block.kv_type != FTH_F32 && block.head_dim <= persistent::kMostHeadDim &&
                        (gate == nullptr || gate->router == FTH_ROUTER_LINEAR);
  const int64_t tasks = passes * (block.layers * kOfLayer + kOfPass) + 1;
  return possible && tasks <= kMost ? tasks : 0;
}

}  // namespace fth
