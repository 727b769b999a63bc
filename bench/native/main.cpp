#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

namespace bench {
namespace {

FILE* json = nullptr;
bool first_line = true;

}  // namespace

Bench*& Bench::first() {
  static Bench* head = nullptr;
  return head;
}

void report(const Line& line, const Samples& samples) {
  const double best = samples.best(), median = samples.median();
  printf("%-10s %-46s %10.2f %10.2f  %7.1f  %8.1f  %5.1f %%\n", line.operation, line.what, best * 1e6, median * 1e6,
         line.bytes / median * 1e-9, line.flops / median * 1e-9, 100 * line.ideal / median);
  fflush(stdout);
  if (json == nullptr) return;
  fprintf(json,
          "%s\n  {\"operation\": \"%s\", \"case\": \"%s\", \"workers\": %d, \"best_seconds\": %.9g, "
          "\"median_seconds\": %.9g, \"samples\": %lld, \"bytes\": %.0f, \"flops\": %.0f, \"ideal_seconds\": %.9g}",
          first_line ? "" : ",", line.operation, line.what, line.workers, best, median, (long long)samples.size(),
          line.bytes, line.flops, line.ideal);
  first_line = false;
}

}  // namespace bench

int main(int argc, char** argv) {
  bench::Options options;
  const char* names[64];
  int name_count = 0, words = 0;
  for (int i = 1; i < argc; i++) {
    const bool last = i + 1 == argc;
    if (!strcmp(argv[i], "--json") && !last) options.json = argv[++i];
    else if (!strcmp(argv[i], "--workers") && !last) options.workers = atoi(argv[++i]);
    else if (!strcmp(argv[i], "--seconds") && !last) options.seconds = atof(argv[++i]);
    else if (!strcmp(argv[i], "--only") && !last && words < 8) options.only[words++] = argv[++i];
    else if (argv[i][0] != '-' && name_count < 64) names[name_count++] = argv[i];
    else {
      fprintf(stderr, "usage: fathom_bench [name ...] [--only WORD]... [--json FILE] [--workers N] [--seconds S]\n"
              "names:");
      for (bench::Bench* b = bench::Bench::first(); b != nullptr; b = b->next) fprintf(stderr, " %s", b->name);
      fprintf(stderr, "\nFATHOM_ISA=scalar|avx2|avx512 chooses the kernels.\n");
      return 2;
    }
  }
  if (options.json != nullptr && (bench::json = fopen(options.json, "w")) == nullptr) {
    fprintf(stderr, "%s cannot be written\n", options.json);
    return 1;
  }

  char message[256];
  fth_context* ctx = nullptr;
  if (fth_context_create(FTH_CPU, options.workers, FTH_ISA_AUTO, message, sizeof message, &ctx) != FTH_OK) {
    fprintf(stderr, "%s\n", message);
    return 1;
  }
  const fth_info& info = ctx->info;
  const bench::Limits limits = bench::measure_limits(ctx);
  printf("isa %s, %d workers: f32 %.1f, bf16 %.1f GFLOP/s, int8 %.1f GOP/s; read", fth_isa_name(info.isa), info.workers,
         limits.f32 * 1e-9, limits.bf16 * 1e-9, limits.i8 * 1e-9);
  for (int i = 0; i < bench::kReads; i++)
    printf("%s %.4g MiB %.1f", i == 0 ? "" : ",", double(bench::kReadBytes[i]) / (1 << 20), limits.read[i] * 1e-9);
  printf(" GB/s\n");
  printf("%-10s %-46s %10s %10s  %7s  %8s  %7s\n", "operation", "case", "best us", "median us", "GB/s", "GFLOP/s",
         "of limit");
  if (bench::json != nullptr)
    fprintf(bench::json,
            "{\"isa\": \"%s\", \"bf16_dot\": %d, \"workers\": %d, \"f32_flops\": %.0f, \"bf16_flops\": %.0f, "
            "\"i8_ops\": %.0f, \"read_bytes_per_second\": {",
            fth_isa_name(info.isa), info.bf16_dot, info.workers, limits.f32, limits.bf16, limits.i8);
  for (int i = 0; bench::json != nullptr && i < bench::kReads; i++)
    fprintf(bench::json, "%s\"%lld\": %.0f", i == 0 ? "" : ", ", (long long)bench::kReadBytes[i], limits.read[i]);
  if (bench::json != nullptr) fprintf(bench::json, "}, \"lines\": [");
  for (bench::Bench* b = bench::Bench::first(); b != nullptr; b = b->next) {
    bool wanted = name_count == 0;
    for (int i = 0; i < name_count; i++) wanted |= !strcmp(names[i], b->name);
    if (wanted) b->body(ctx, options);
  }
  if (bench::json != nullptr) {
    fprintf(bench::json, "\n]}\n");
    fclose(bench::json);
  }
  fth_context_destroy(ctx);
  return 0;
}
