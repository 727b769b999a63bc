// Timing of two libraries against each other in one process, so that both see the same machine.
#pragma once
#include <stdint.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace peers {

struct Options {
  double seconds = 0.3;           // spent on each case
  std::vector<int> workers;       // empty: one, and one per core
  std::vector<std::string> only;  // cases whose name has each of these words
  std::string json;
  bool wants(const std::string& what) const;
};
// Ends the process with a sentence if the arguments are wrong.
Options parse(int argc, char** argv);

// Medians: seconds of a call of each, and the ratio of neighbouring samples, peer / fathom.
struct Paired {
  double fathom, peer, ratio;
  int samples;
  bool quiet;  // only samples in which the system gave no core to somebody else
};
// Takes turns. Each call gets the index of the weights it reads, below `copies`. A sample begins when no thread of this
// process spins any more, and with calls that are not timed: they wake the side's own threads, and its data.
Paired compare(double seconds, int64_t copies, const std::function<void(int64_t)>& fathom,
               const std::function<void(int64_t)>& peer);

// Root of the mean square of a - b over that of b.
double difference(const float* a, const float* b, int64_t count);

// Collects what was measured: JSON, a table with a line per case and a column per `column`, and geometric means.
class Report {
 public:
  Report(const Options& options, std::string peer);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;
  // `group`: lines whose means are taken together, "f32, 1 worker, resident", say.
  void add(const std::string& operation, const std::string& line, const std::string& column, const std::string& group,
           int workers, const Paired& paired);
  // The peer computes something else: not timed.
  void wrong(const std::string& what, double difference, double most);

 private:
  struct Cell {
    std::string column, text;
  };
  void flush_line();
  std::string peer_, line_;
  std::vector<Cell> cells_;
  std::vector<std::string> columns_;                                          // in the order they came
  std::map<std::string, std::map<std::string, std::vector<double>>> groups_;  // group, column: ratios
  std::FILE* json_ = nullptr;
  bool first_ = true;
};

}  // namespace peers
