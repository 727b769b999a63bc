#include "cpu.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "fathom/fathom.h"

namespace fth {

#if defined(__x86_64__)
int32_t best_isa() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? FTH_ISA_AVX512 : avx2 ? FTH_ISA_AVX2 : FTH_ISA_SCALAR;
}
bool has_bf16_dot() {
  __builtin_cpu_init();
  return best_isa() == FTH_ISA_AVX512 && __builtin_cpu_supports("avx512bf16");
}
#else
int32_t best_isa() { return FTH_ISA_SCALAR; }
bool has_bf16_dot() { return false; }
#endif

int usable_cores() {
  cpu_set_t set;
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(sysconf(_SC_NPROCESSORS_ONLN));
  if (FILE* file = fopen("/sys/fs/cgroup/cpu.max", "r")) {
    long long quota = 0, period = 0;
    if (fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
      const int limit = int((quota + period - 1) / period);
      if (limit < cores) cores = limit;
    }
    fclose(file);
  }
  return cores < 1 ? 1 : cores;
}

int64_t l2_bytes() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : 0;
}
int64_t l3_bytes() {
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? bytes : 0;
}

}  // namespace fth
