// The default number of workers, from files as the kernel writes them.
#include "cpu.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "test.h"

namespace {

// A file system in a directory of its own, for as long as this lives.
class Files {
 public:
  Files() {
    char name[] = "cpu_test_XXXXXX";
    root_ = mkdtemp(name);
  }
  ~Files() {
    for (size_t i = made_.size(); i-- > 0;) remove(made_[i].c_str());
    rmdir(root_.c_str());
  }
  Files& write(const std::string& path, const char* text) {
    for (size_t slash = 1; (slash = path.find('/', slash)) != std::string::npos; slash++) {
      const std::string directory = root_ + path.substr(0, slash);
      if (mkdir(directory.c_str(), 0700) == 0) made_.push_back(directory);
    }
    made_.push_back(root_ + path);
    FILE* const file = fopen(made_.back().c_str(), "w");
    EXPECT(file != nullptr, "%s", made_.back().c_str());
    fputs(text, file);
    fclose(file);
    return *this;
  }
  int cores(std::initializer_list<int> cpus) const {
    cpu_set_t mask[2];
    CPU_ZERO_S(sizeof mask, mask);
    for (int cpu : cpus) CPU_SET_S(size_t(cpu), sizeof mask, mask);
    return fth::usable_cores(mask, sizeof mask, root_.c_str());
  }
  Files& siblings(int cpu, const char* list) {
    return write("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", list);
  }

 private:
  std::string root_;
  std::vector<std::string> made_;
};

}  // namespace

TEST(counts_the_mask) {
  Files nothing;
  EXPECT(nothing.cores({0, 1, 2, 3}) == 4);
  EXPECT(nothing.cores({5, 1500}) == 2);
  EXPECT(nothing.cores({}) == 1);
  EXPECT(fth::usable_cores() >= 1);
}

TEST(counts_a_core_once) {
  Files files;
  for (int cpu = 0; cpu < 4; cpu++) files.siblings(cpu, cpu % 2 == 0 ? "0,2\n" : "1,3\n");
  files.siblings(8, "8-9\n").siblings(9, "8-9\n").siblings(10, "10\n").siblings(11, "rubbish\n");
  EXPECT(files.cores({0, 1, 2, 3}) == 2);
  EXPECT(files.cores({2, 3}) == 2);  // their siblings are not ours
  EXPECT(files.cores({0, 2}) == 1);
  EXPECT(files.cores({8, 9, 10, 11}) == 3);
  EXPECT(files.cores({9}) == 1);
}

TEST(rounds_the_quota_up) {
  const struct { const char* max; int cores; } cases[] = {
      {"max 100000\n", 8},     {"200000 100000\n", 2}, {"250000 100000\n", 3}, {"1000 100000\n", 1},
      {"1600000 100000\n", 8}, {"0 100000\n", 8},      {"100000\n", 8},        {"", 8},
      {"-1 100000\n", 8},
  };
  for (const auto& c : cases) {
    Files files;
    files.write("/proc/self/cgroup", "0::/\n").write("/sys/fs/cgroup/cpu.max", c.max);
    EXPECT(files.cores({0, 1, 2, 3, 4, 5, 6, 7}) == c.cores, "%s", c.max);
  }
}

TEST(asks_every_group_above) {
  Files files;
  files.write("/proc/self/cgroup", "0::/system.slice/engine.service/worker\n")
      .write("/sys/fs/cgroup/system.slice/cpu.max", "500000 100000\n")
      .write("/sys/fs/cgroup/system.slice/engine.service/cpu.max", "300000 100000\n")
      .write("/sys/fs/cgroup/system.slice/engine.service/worker/cpu.max", "max 100000\n")
      .write("/sys/fs/cgroup/system.slice/other/cpu.max", "100000 100000\n");
  EXPECT(files.cores({0, 1, 2, 3, 4, 5, 6, 7}) == 3);
  EXPECT(files.cores({0, 1}) == 2);
}

TEST(reads_version_1) {
  const char* const groups = "12:memory:/pod/a\n4:cpuacct,cpu:/pod/a\n3:cpuset:/pod/b\n1:name=systemd:/pod/c\n";
  Files files;
  files.write("/proc/self/cgroup", groups)
      .write("/sys/fs/cgroup/cpu/pod/a/cpu.cfs_quota_us", "350000\n")
      .write("/sys/fs/cgroup/cpu/pod/a/cpu.cfs_period_us", "100000\n")
      .write("/sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us", "-1\n")
      .write("/sys/fs/cgroup/cpu/pod/cpu.cfs_period_us", "100000\n")
      .write("/sys/fs/cgroup/cpu/pod/b/cpu.cfs_quota_us", "100000\n")
      .write("/sys/fs/cgroup/cpu/pod/b/cpu.cfs_period_us", "100000\n");
  EXPECT(files.cores({0, 1, 2, 3, 4, 5, 6, 7}) == 4);

  Files container;  // whose own group is mounted as the root
  container.write("/proc/self/cgroup", groups)
      .write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n")
      .write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT(container.cores({0, 1, 2, 3, 4, 5, 6, 7}) == 2);
}
