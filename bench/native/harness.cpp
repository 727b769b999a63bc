// Samples, memory, errors: what every benchmark needs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench.h"

namespace bench {
namespace {

int compare(const void* a, const void* b) {
  const double x = *static_cast<const double*>(a), y = *static_cast<const double*>(b);
  return x < y ? -1 : x > y;
}

}  // namespace

bool Options::wants(const char* what) const {
  for (const char* word : only)
    if (word != nullptr && strstr(what, word) == nullptr) return false;
  return true;
}

int64_t interruptions() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

void Samples::add(double seconds, bool interrupted) {
  if (all_ < kMost) all_values_[all_++] = seconds;
  if (!interrupted && quiet_ < kMost) quiet_values_[quiet_++] = seconds;
}
double Samples::best() const {
  double least = values()[0];
  for (int64_t i = 1; i < size(); i++) least = values()[i] < least ? values()[i] : least;
  return least;
}
double Samples::quantile(double q) const {
  static double sorted[kMost];
  memcpy(sorted, values(), size_t(size()) * sizeof(double));
  qsort(sorted, size_t(size()), sizeof(double), compare);
  return sorted[int64_t(q * double(size()))];
}

Memory::Memory(int64_t bytes) : bytes_(bytes) {
  if (fth_memory_map(FTH_MEMORY_HOST, 0, bytes, &data_) == FTH_OK) return;
  fprintf(stderr, "no memory for a buffer of %lld bytes\n", (long long)bytes);
  exit(1);
}
void Memory::fill() {
  uint16_t* half = reinterpret_cast<uint16_t*>(data_);
  uint32_t state = 1;
  for (int64_t i = 0; i < bytes_ / 2; i++) {
    state = state * 1664525u + 1013904223u;
    half[i] = uint16_t(0x3c00 | (state >> 16 & 0x80ff));
  }
}

void must(fth_context* ctx, fth_status status) {
  if (status == FTH_OK) return;
  fprintf(stderr, "%s\n", fth_context_message(ctx));
  exit(1);
}

}  // namespace bench
