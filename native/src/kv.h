// Writing K and V without the C boundary, for operations that end in it (block, backfill).
#pragma once
#include "context.h"
#include "kv/kv.h"

namespace fth {

// The shape's own limits and that the layer exists; `name` is the argument's.
bool check_kv(Check& check, const char* name, const fth_kv_shape& shape, int32_t layer = 0);
kv::Pool pool_of(const fth_kv_shape& shape, const void* data);
int64_t pool_bytes(const fth_kv_shape& shape);

// int32 words that check_entries needs for `count` rows.
int64_t check_entries_words(int64_t count);
// Every entry is -1 or in [0, entries), and none but -1 occurs twice. Item i is entry[i * stride]; a field of the rows
// has the stride kRowWords. `name` is printed with i in it, as in "rows[%lld].entry".
bool check_entries(Check& check, const char* name, const int32_t* entry, int64_t stride, int64_t count, int64_t entries,
                   int32_t* words);
constexpr int64_t kRowWords = sizeof(fth_row) / sizeof(int32_t);

// Stores k, v [count, kv_heads, head_dim], `stride` floats from row to row. Arguments are taken as checked.
void run_kv_write(fth_context* ctx, const kv::Args& args, int64_t count, const float* k, const float* v,
                  int64_t stride);

}  // namespace fth
