// Norms for other operations. Arguments are taken as checked.
#pragma once
#include "context.h"
#include "norm/norm.h"

namespace fth {

void run_norm(fth_context* ctx, const norm::Args& args, int64_t count);

// What a product with weights of `type` reads: norm(x) of args.x, or x itself without a norm, in that type. Written to
// `out`, [count, x_stride(args.width, type)], unless x can be read where it lies; returns where it is.
const void* product_input(fth_context* ctx, const norm::Args& args, bool with_norm, int32_t type, int64_t count,
                          void* out);

}  // namespace fth
