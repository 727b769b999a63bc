#include "paired.h"

#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace peers {
namespace {

double clock_seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}
double now() { return clock_seconds(CLOCK_MONOTONIC); }

int64_t interruptions() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Until no other thread of the process runs; those of some libraries spin for long after a call. The caller does not
// sleep meanwhile: a core that has slept is slow for milliseconds, on virtual machines above all.
void settle() {
  constexpr double kMost = 0.1, kWindow = 50e-6;
  const auto others = [] { return clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - clock_seconds(CLOCK_THREAD_CPUTIME_ID); };
  for (const double give_up = now() + kMost; now() < give_up;) {
    const double cpu = others(), start = now();
    while (now() - start < kWindow) {
    }
    if (others() - cpu < 0.2 * kWindow) return;
  }
  static bool said = false;
  if (!said) fprintf(stderr, "threads spin on after a call: the figures of the other side suffer\n");
  said = true;
}

struct Sample {
  double seconds;
  bool quiet;
};

struct Side {
  const std::function<void(int64_t)>& call;
  int64_t copies, next = 0, calls = 1;
  void once() { call(next++ % copies); }
  Sample sample() {
    constexpr double kWarm = 5e-3;
    settle();
    const double until = now() + kWarm;
    for (int i = 0; i < 2 && now() < until; i++) once();
    const int64_t before = interruptions();
    const double start = now();
    for (int64_t i = 0; i < calls; i++) once();
    const double seconds = (now() - start) / double(calls);
    return {seconds, interruptions() == before};
  }
  // So many calls per sample that the clock's own time does not count.
  void calibrate() {
    constexpr double kLeast = 200e-6;
    sample();
    calls = std::max<int64_t>(1, int64_t(kLeast / sample().seconds) + 1);
  }
};

}  // namespace

bool Options::wants(const std::string& what) const {
  return std::all_of(only.begin(), only.end(), [&](const std::string& word) { return what.find(word) != what.npos; });
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i++) {
    const std::string name = argv[i];
    if (i + 1 < argc && name == "--json") options.json = argv[++i];
    else if (i + 1 < argc && name == "--workers") options.workers.push_back(atoi(argv[++i]));
    else if (i + 1 < argc && name == "--seconds") options.seconds = atof(argv[++i]);
    else if (i + 1 < argc && name == "--only") options.only.push_back(argv[++i]);
    else {
      fprintf(stderr, "usage: %s [--only WORD]... [--workers N]... [--seconds S] [--json FILE]\n", argv[0]);
      exit(2);
    }
  }
  if (options.workers.empty()) {
    options.workers = {1};
    const int cores = int(sysconf(_SC_NPROCESSORS_ONLN));
    if (cores > 1) options.workers.push_back(cores);
  }
  return options;
}

Paired compare(double seconds, int64_t copies, const std::function<void(int64_t)>& fathom,
               const std::function<void(int64_t)>& peer) {
  constexpr size_t kFew = 5, kMany = 15;
  Side sides[2] = {{fathom, copies}, {peer, copies}};
  for (Side& side : sides) side.calibrate();
  std::vector<double> all[3], quiet[3];
  const double until = now() + seconds;
  for (size_t i = 0; now() < until || (quiet[0].size() < kFew && i < kMany); i++) {
    Sample samples[2];
    for (size_t k : {i & 1, ~i & 1}) samples[k] = sides[k].sample();
    const double values[3] = {samples[0].seconds, samples[1].seconds, samples[1].seconds / samples[0].seconds};
    for (int k = 0; k < 3; k++) {
      all[k].push_back(values[k]);
      if (samples[0].quiet && samples[1].quiet) quiet[k].push_back(values[k]);
    }
  }
  const bool enough = quiet[0].size() >= kFew;
  const std::vector<double>* use = enough ? quiet : all;
  return {median(use[0]), median(use[1]), median(use[2]), int(use[0].size()), enough};
}

double difference(const float* a, const float* b, int64_t count) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < count; i++) {
    error += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return sqrt(error / size);
}

Report::Report(const Options& options, std::string peer) : peer_(std::move(peer)) {
  if (!options.json.empty() && (json_ = fopen(options.json.c_str(), "w")) == nullptr) {
    fprintf(stderr, "%s cannot be written\n", options.json.c_str());
    exit(1);
  }
  if (json_ != nullptr) fprintf(json_, "{\"peer\": \"%s\", \"lines\": [", peer_.c_str());
  printf("%s: its time over Fathom's; * where few samples were undisturbed\n", peer_.c_str());
}

Report::~Report() {
  flush_line();
  printf("\n%-58s", ("geometric means (least) of " + peer_).substr(0, 57).c_str());
  for (const std::string& column : columns_) printf("%14s", column.c_str());
  printf("\n");
  for (const auto& [group, ratios] : groups_) {
    printf("%-58s", group.c_str());
    for (const std::string& column : columns_) {
      const auto found = ratios.find(column);
      if (found == ratios.end()) {
        printf("%14s", "");
        continue;
      }
      double sum = 0;
      for (double ratio : found->second) sum += log(ratio);
      printf("%7.2f (%.2f)", exp(sum / double(found->second.size())),
             *std::min_element(found->second.begin(), found->second.end()));
    }
    printf("\n");
  }
  if (json_ == nullptr) return;
  fprintf(json_, "\n]}\n");
  fclose(json_);
}

void Report::flush_line() {
  if (cells_.empty()) return;
  printf("%-58s", line_.c_str());
  for (const Cell& cell : cells_) printf("  %s: %s", cell.column.c_str(), cell.text.c_str());
  printf("\n");
  fflush(stdout);
  cells_.clear();
}

void Report::add(const std::string& operation, const std::string& line, const std::string& column,
                 const std::string& group, int workers, const Paired& paired) {
  if (line != line_) flush_line();
  line_ = line;
  char text[32];
  snprintf(text, sizeof text, "%.2f%s", paired.ratio, paired.quiet ? "" : "*");
  cells_.push_back({column, text});
  if (std::find(columns_.begin(), columns_.end(), column) == columns_.end()) columns_.push_back(column);
  groups_[group][column].push_back(paired.ratio);
  if (json_ == nullptr) return;
  fprintf(json_,
          "%s\n  {\"operation\": \"%s\", \"case\": \"%s, %s\", \"workers\": %d, \"median_seconds\": %.9g, "
          "\"peer_seconds\": %.9g, \"ratio\": %.4g, \"samples\": %d, \"quiet\": %s}",
          first_ ? "" : ",", operation.c_str(), line.c_str(), column.c_str(), workers, paired.fathom, paired.peer,
          paired.ratio, paired.samples, paired.quiet ? "true" : "false");
  first_ = false;
}

void Report::wrong(const std::string& what, double difference, double most) {
  flush_line();
  printf("%-58s WRONG: differs from Fathom by %.2g, at most %.2g expected\n", what.c_str(), difference, most);
  if (json_ == nullptr) return;
  // JSON has no NaN, which a result that was not written gives.
  fprintf(json_, "%s\n  {\"case\": \"%s\", \"wrong\": %.3g}", first_ ? "" : ",", what.c_str(),
          isfinite(difference) ? difference : 1);
  first_ = false;
}

}  // namespace peers
