// Rotary embedding for other operations: the table once per call, then any number of rotations.
#pragma once
#include "context.h"
#include "rope/rope.h"

namespace fth {

// Floats of the table for `count` rows.
inline int64_t rope_table_floats(int64_t rotary_dim, int64_t count) { return rotary_dim * count; }

// Fills the table from rows[i].position.
void rope_table(fth_context* ctx, int64_t count, const fth_row* rows, const float* frequency, int64_t rotary_dim,
                float* table);

// Rotates args.heads heads of every row (FTH_ROPE_NONE has no table: do not call). Heads of q and of k that lie side by
// side in a fused product are one run of heads.
void run_rope(fth_context* ctx, int64_t count, const rope::Args& args);

// The kernel itself, for rows that are already inside a parallel loop.
inline rope::Rows* rope_kernel(const fth_context* ctx) {
  return for_isa(ctx, rope::scalar::rows, rope::avx2::rows, rope::avx512::rows);
}

}  // namespace fth
