// Attention without the C boundary, for the block.
#pragma once
#include "attention/attention.h"
#include "context.h"

namespace fth {

// rows[i].list, visible, start are in range, and every item from the first to the last that rows of one list see names
// an entry of the pool. Items are looked at once for all rows of a list that follow one another. `name` is the rows'.
bool check_lists(Check& check, const char* name, const fth_row* rows, int64_t count, const int32_t* entries,
                 int64_t entry_count, int64_t pool_entries);

// Bytes of scratch for `count` rows of this shape, whatever their lists are.
size_t attention_scratch_bytes(const fth_context* ctx, int64_t heads, int64_t kv_heads, int64_t head_dim,
                               int64_t count);

// Comes before run_attention with this scratch: once for all layers, whose rows have the same lists. `scratch` is
// 64-byte aligned.
void plan_attention(fth_context* ctx, const attention::Args& args, int64_t count, char* scratch);
// Arguments are taken as checked.
void run_attention(fth_context* ctx, const attention::Args& args, int64_t count, char* scratch);

}  // namespace fth
