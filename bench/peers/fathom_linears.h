#pragma once
#include "linears.h"

namespace peers {

// Null if the library does not store weights in this type.
std::unique_ptr<Linears> load_fathom(int32_t type, const std::vector<Part>& parts, int64_t copies);

// A context that stays, one for each number of threads.
fth_context* context(int threads);
// Ends the process with the library's sentence.
void must(fth_context* ctx, fth_status status);

}  // namespace peers
