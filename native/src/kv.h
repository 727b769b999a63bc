// Writing K and V without the C boundary, for operations that end in it (block, backfill).
#pragma once
#include "context.h"
#include "kv/kv.h"

namespace fth {

// The shape's own limits and that the layer exists; `name` is the argument's.
bool check_kv(Check& check, const char* name, const fth_kv_shape& shape, int32_t layer = 0);
kv::Pool pool_of(const fth_context* ctx, const fth_kv_shape& shape, const void* data);
int64_t pool_bytes(const fth_context* ctx, const fth_kv_shape& shape);
// Of a pool's address: kernels of a device copy 16 bytes at a time.
inline size_t pool_alignment(const fth_context* ctx) { return FTH_ON_DEVICE(ctx) ? 16 : 4; }

constexpr int64_t kRowWords = sizeof(fth_row) / sizeof(int32_t);

// The entries that a call writes: an array of its own, or a field of the rows. Item i is called array[i]field.
struct Entries {
  const char *array, *field;
  const int32_t* first;
  int64_t stride, count;

  int32_t operator[](int64_t i) const { return first[i * stride]; }
};
inline Entries entries_of(const fth_row* rows, int64_t count) {
  return {"rows", ".entry", &rows->entry, kRowWords, count};
}

// prefix + field, "kv" and ".type" say, is a type that a pool can have.
bool check_kv_type(Check& check, const char* prefix, const char* field, int32_t type);
// Every one is -1 or in [0, entries).
bool check_entries(Check& check, const Entries& entry, int64_t entries);
// And none but -1 occurs twice. Needs this many int32 words for `count` of them.
bool check_distinct(Check& check, const Entries& entry, int32_t* words);
int64_t check_distinct_words(int64_t count);

kv::Write* kv_writer(const fth_context* ctx);
// Stores k, v [count, kv_heads, head_dim], `stride` floats from row to row. Arguments are taken as checked.
void run_kv_write(fth_context* ctx, const kv::Args& args, int64_t count, const float* k, const float* v,
                  int64_t stride);

}  // namespace fth
