#include "cpu.h"

#include <stdio.h>
#include <string.h>
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

// A file system whose root is somewhere else when it is tested.
class Files {
 public:
  explicit Files(const char* root) : root_(root) {}

  // The numbers at the beginning of a file, in a scanf format; how many there are.
  template <class... T>
  int scan(const char* path, const char* format, T*... numbers) const {
    FILE* const file = open(path);
    if (file == nullptr) return 0;
    const int count = fscanf(file, format, numbers...);
    fclose(file);
    return count;
  }

  FILE* open(const char* path) const {
    char full[kPath];
    return snprintf(full, sizeof full, "%s%s", root_, path) < int(sizeof full) ? fopen(full, "re") : nullptr;
  }

  static constexpr size_t kPath = 4096;

 private:
  const char* root_;
};

// The least number of cores that the group at `path` or one above it may fill, by the quota files under `mount`: a
// container's own group may be what is mounted there, so directories that do not exist are passed over.
int64_t quota_cores(const Files& files, const char* mount, const char* group, bool unified) {
  char path[Files::kPath];
  int64_t least = INT64_MAX;
  for (size_t length = strlen(group);; length--) {
    if (length > 0 && group[length] != 0 && group[length] != '/') continue;
    long long quota = -1, period = -1;
    const auto file = [&](const char* name) {
      snprintf(path, sizeof path, "%s%.*s/%s", mount, int(length), group, name);
      return path;
    };
    if (unified) {
      files.scan(file("cpu.max"), "%lld %lld", &quota, &period);  // "max" is no number
    } else {
      files.scan(file("cpu.cfs_quota_us"), "%lld", &quota);
      files.scan(file("cpu.cfs_period_us"), "%lld", &period);
    }
    if (quota > 0 && period > 0 && (quota - 1) / period + 1 < least) least = (quota - 1) / period + 1;
    if (length == 0) return least;
  }
}

// The same for this process, whose groups the kernel lists as "number:controllers:/path".
int64_t quota_cores(const Files& files) {
  FILE* const groups = files.open("/proc/self/cgroup");
  if (groups == nullptr) return INT64_MAX;
  int64_t least = INT64_MAX;
  const auto limit = [&](const char* mount, const char* group, bool unified) {
    const int64_t cores = quota_cores(files, mount, group, unified);
    if (cores < least) least = cores;
  };
  char line[Files::kPath];
  while (fgets(line, sizeof line, groups) != nullptr) {
    line[strcspn(line, "\n")] = 0;
    char* const controllers = strchr(line, ':');
    char* const group = controllers == nullptr ? nullptr : strchr(controllers + 1, ':');
    if (group == nullptr) continue;
    *group = 0;
    if (controllers[1] == 0) {
      limit("/sys/fs/cgroup", group + 1, true);
    } else {
      bool cpu = false;
      char* rest = controllers + 1;
      while (char* name = strsep(&rest, ",")) cpu |= strcmp(name, "cpu") == 0;
      if (!cpu) continue;
      limit("/sys/fs/cgroup/cpu", group + 1, false);
      limit("/sys/fs/cgroup/cpu,cpuacct", group + 1, false);
    }
  }
  fclose(groups);
  return least;
}

// Whether another CPU of the mask, with a lower number, is a thread of the same core.
bool shares_a_core(const Files& files, const cpu_set_t* mask, size_t bytes, int cpu) {
  char path[96];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  FILE* const file = files.open(path);
  if (file == nullptr) return false;
  bool shares = false;
  for (int first; fscanf(file, "%d", &first) == 1;) {  // such as 0-1 or 0,64
    int last = first, next = fgetc(file);
    if (next == '-' && fscanf(file, "%d", &last) == 1) next = fgetc(file);
    for (int i = first < 0 ? 0 : first; i <= last && i < cpu; i++) shares |= CPU_ISSET_S(size_t(i), bytes, mask) != 0;
    if (next != ',') break;
  }
  fclose(file);
  return shares;
}

// The kernel's own description of the cache; 0 without it.
int64_t cache_bytes(int level) {
  const Files files("");
  for (int index = 0; index < 8; index++) {
    char path[96];
    int found = 0;
    long long kib = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
    if (files.scan(path, "%d", &found) == 0 || found != level) continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
    if (files.scan(path, "%lldK", &kib) == 1 && kib > 0) return kib << 10;
  }
  return 0;
}

// What the C library makes of CPUID.
int64_t guessed_bytes(int name) {
  const long bytes = sysconf(name);
  return bytes > 0 ? bytes : 0;
}

}  // namespace

int usable_cores(const cpu_set_t* mask, size_t bytes, const char* root) {
  const Files files(root);
  int64_t cores = 0;
  for (int cpu = 0; cpu < int(bytes * 8); cpu++)
    if (CPU_ISSET_S(size_t(cpu), bytes, mask)) cores += !shares_a_core(files, mask, bytes, cpu);
  const int64_t quota = quota_cores(files);
  if (quota < cores) cores = quota;
  return cores < 1 ? 1 : int(cores);
}

int usable_cores() {
  cpu_set_t mask[8];  // 8192 CPUs
  if (sched_getaffinity(0, sizeof mask, mask) == 0) return usable_cores(mask, sizeof mask, "");
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online < 1 ? 1 : int(online);
}

int64_t l2_bytes() {
  const int64_t told = cache_bytes(2);
  return told > 0 ? told : guessed_bytes(_SC_LEVEL2_CACHE_SIZE);
}

int64_t l3_bytes() {
  // The guess may be the sum over a package whose cores see a slice each, of 32 MiB where there are many.
  constexpr int64_t kSlice = int64_t(32) << 20;
  const int64_t told = cache_bytes(3), guessed = guessed_bytes(_SC_LEVEL3_CACHE_SIZE);
  return told > 0 ? told : guessed < kSlice ? guessed : kSlice;
}

}  // namespace fth
