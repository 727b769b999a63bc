// Products on devices of compute capability 9.0 (cuda_stream.h).
#include "cuda_start.h"

namespace fth::linear {
namespace {

void start_stream(Batch& batch, int32_t type, const Workspace& space, Stream stream) {
  if (batch.product[0].a.weight == nullptr) start_stream<Bf16Wide, true>(batch, Finish{}, space, stream);
  else start_stream(batch, type, Finish{}, space, stream);
}

}  // namespace

void cuda90::products(const Product* list, int count, const Workspace& space, Stream stream) {
  Batch batch;
  batch.count = 0;
  for (int i = 0; i < count; i++) {
    if (list[i].args.count <= 0) continue;
    batch.product[batch.count++] = params_of(list[i]);
    const bool goes_on = i + 1 < count && batch.count < Batch::kMost && list[i + 1].args.count > 0 &&
                         list[i + 1].type == list[i].type && list[i].args.picks == list[i + 1].args.picks &&
                         (list[i + 1].args.weight == nullptr) == (list[i].args.weight == nullptr);
    if (goes_on) continue;
    start_stream(batch, list[i].type, space, stream);
    batch.count = 0;
  }
}

}  // namespace fth::linear
