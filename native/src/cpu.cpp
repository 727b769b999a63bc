#include "cpu.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "fathom/fathom.h"

namespace fth {

#if defined(__x86_64__)
int32_t best_isa() {
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? FTH_ISA_AVX512 : avx2 ? FTH_ISA_AVX2 : FTH_ISA_SCALAR;
}
bool has_bf16_dot() {
  __builtin_cpu_init();
  return best_isa() == FTH_ISA_AVX512 && __builtin_cpu_supports("avx512bf16");
}
bool has_int8_dot(int32_t isa) {
  __builtin_cpu_init();
  return (isa == FTH_ISA_AVX512 && __builtin_cpu_supports("avx512vnni")) ||
         (isa == FTH_ISA_AVX2 && __builtin_cpu_supports("avxvnni"));
}
#else
bool has_int8_dot(int32_t) { return false; }
int32_t best_isa() { return FTH_ISA_SCALAR; }
bool has_bf16_dot() { return false; }
#endif

namespace {

// The kernel's own description of the cache; only without it sysconf, which guesses from CPUID and errs on virtual
// machines.
int64_t cache_bytes(int level, int sysconf_name) {
  for (int index = 0; index < 8; index++) {
    char path[96];
    int found = 0;
    long long kib = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
    if (FILE* file = fopen(path, "r")) {
      if (fscanf(file, "%d", &found) != 1) found = 0;
      fclose(file);
    }
    if (found != level) continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
    if (FILE* file = fopen(path, "r")) {
      if (fscanf(file, "%lldK", &kib) != 1) kib = 0;
      fclose(file);
    }
    if (kib > 0) return kib << 10;
  }
  const long bytes = sysconf(sysconf_name);
  return bytes > 0 ? bytes : 0;
}

}  // namespace

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

int64_t l2_bytes() { return cache_bytes(2, _SC_LEVEL2_CACHE_SIZE); }
int64_t l3_bytes() { return cache_bytes(3, _SC_LEVEL3_CACHE_SIZE); }

}  // namespace fth
