// Moving rows without the C boundary, for the recursion. Arguments are taken as checked; on a device, which may know of
// fewer rows, those from *live on stay (null: all move).
#pragma once
#include "compact/compact.h"
#include "context.h"

namespace fth {

// y[i] = x[index[i]]
void run_gather(fth_context* ctx, int64_t width, int64_t count, const int32_t* live, const int32_t* index,
                const float* x, float* y);
// x[index[i]] = y[i]
void run_scatter(fth_context* ctx, int64_t width, int64_t count, const int32_t* live, const int32_t* index,
                 const float* y, float* x);
void run_scatter_add(fth_context* ctx, int64_t count, const int32_t* live, const compact::Args& args);

}  // namespace fth
