// A block per embedding: one row of a plain table, or of packed weights. The floor is the copy; rows of strips come in
// pieces of 16 bytes.
#include "embed/embed.h"
#include "linear/cuda_tiles.h"

namespace fth::embed {
namespace {

using namespace gpu;

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) embed_rows(const __grid_constant__ Args a) {
  const int64_t id = a.id[blockIdx.x];
  float* out = a.out + blockIdx.x * a.width;
  if (!a.packed) {
    for (int64_t k = threadIdx.x; k < a.width; k += kThreads) {
      const int64_t at = id * a.width + k;
      out[k] = a.scale * (a.type == FTH_F32 ? static_cast<const float*>(a.table)[at]
                                            : to_float(static_cast<const bf16*>(a.table)[at]));
    }
    return;
  }
  const linear::StripRow row(id, 0, false);
  const unsigned char* strip = static_cast<const unsigned char*>(a.table) + row.strip * a.strip_bytes;
  for (int64_t k = threadIdx.x; k < a.width; k += kThreads)
    out[k] = a.scale * linear::weight_at(a.type, strip, a.steps, row.row, k);
}

}  // namespace

void cuda::rows(const Args& args, int64_t count, Stream stream) {
  launch(embed_rows, {dim3(unsigned(count)), dim3(kThreads)}, stream, args);
}

}  // namespace fth::embed
