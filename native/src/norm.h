// Norms for other operations. Arguments are taken as checked.
#pragma once
#include "context.h"
#include "linear.h"
#include "norm/norm.h"

namespace fth {

void run_norm(fth_context* ctx, const norm::Args& args, int64_t count);

// What products with weights of one type read of norm(args.x), or of args.x without a norm.
Input product_input(fth_context* ctx, const norm::Args& args, bool with_norm, int32_t weight_type, int64_t count,
                    const InputScratch& at, char* scratch);

}  // namespace fth
