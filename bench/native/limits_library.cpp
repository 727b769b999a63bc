// The limits as a library of one function, for the benchmarks in Java.
#include "bench.h"

// With `workers` threads (0: one per core): the peaks of products of f32, bf16 and int8 in FLOP/s, and bytes/s of reading
// and copying buffers of bytes[0 .. count - 1], the largest last. Returns the number of workers, -1 if there is no context.
extern "C" __attribute__((visibility("default"))) int32_t fathom_limits(int32_t workers, int32_t count,
                                                                        const int64_t* bytes, double* peaks,
                                                                        double* read, double* copy) {
  fth_context* ctx = nullptr;
  if (fth_context_create(FTH_CPU, workers, FTH_ISA_AUTO, nullptr, 0, &ctx) != FTH_OK) return -1;
  const int32_t used = ctx->info.workers;
  {
    bench::Memory memory(bytes[count - 1]);
    memory.fill();
    peaks[0] = bench::peak(ctx, FTH_F32);
    peaks[1] = bench::peak(ctx, FTH_BF16);
    peaks[2] = bench::peak(ctx, FTH_I8);
    for (int32_t i = 0; i < count; i++) {
      read[i] = bench::read_rate(ctx, memory, bytes[i]);
      copy[i] = bench::copy_rate(ctx, memory, bytes[i]);
    }
  }
  fth_context_destroy(ctx);
  return used;
}
