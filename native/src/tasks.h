// A step or a recursion of few rows in one launch (kernels/persistent), where device and shape allow it; else its
// operations are launched one by one. The bits are the same.
#pragma once
#include "context.h"
#include "persistent/persistent.h"

namespace fth {

// Most tasks of `passes` passes of few rows; 0: their operations are launched. `gate`: that decides between passes, or
// null.
int64_t most_tasks(const fth_context* ctx, const fth_block_shape& block, const fth_gate_shape* gate, int64_t passes);

// body() runs passes of a block on `count` rows; where they are few, in one launch. `room`: where kernels run, for the
// `tasks` that most_tasks says.
template <class Body>
void run_together(fth_context* ctx, int64_t tasks, int64_t count, const fth_block_shape& block, char* room,
                  Body body) {
  const bool recorded = FTH_ON_DEVICE(ctx) && tasks > 0 && count <= gpu::kTaskRows && ctx->device->record(tasks);
  body();
  if (recorded)
    persistent::cuda::run(ctx->device->recorded(), block.weight_type, block.kv_type,
                          reinterpret_cast<gpu::Task*>(room), ctx->device->counters(), ctx->info.multiprocessors,
                          ctx->device->stream());
}

}  // namespace fth
