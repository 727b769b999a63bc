// A small benchmark harness. Every line compares a kernel with what the machine could do at best, measured in the same
// run: reading the same bytes and doing the same arithmetic, whichever takes longer.
#pragma once
#include <stdint.h>
#include <time.h>

#include "../models.h"
#include "context.h"

namespace bench {

struct Options {
  int workers = 0;        // 0: one per core
  double seconds = 0.25;  // spent on each line
  const char* json = nullptr;
  // Only lines whose case has each of these words are measured.
  const char* only[8] = {};
  bool wants(const char* what) const;
};

// Zeroed, huge pages; ends the process if there is no memory.
class Memory {
 public:
  explicit Memory(int64_t bytes);
  ~Memory() { fth_memory_unmap(FTH_MEMORY_HOST, 0, data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* bytes() const { return static_cast<char*>(data_); }
  float* floats() const { return static_cast<float*>(data_); }
  // Harmless values: small floats in fp32 and bf16 alike.
  void fill();

 private:
  int64_t bytes_;
  void* data_;
};

// What this machine does at best with this many workers.
constexpr int64_t kReadBytes[] = {int64_t(256) << 10, int64_t(1) << 20,  int64_t(4) << 20,  int64_t(12) << 20,
                                  int64_t(24) << 20,  int64_t(48) << 20, int64_t(512) << 20};
constexpr int kReads = sizeof kReadBytes / sizeof *kReadBytes;
struct Limits {
  double f32;           // FLOP/s of fused multiply-adds
  double bf16;          // FLOP/s of bf16 dot products; fp32's where there are none
  double i8;            // op/s of int8 dot products
  double read[kReads];  // bytes/s of reading that many bytes again and again: from L2, L3, memory
};
Limits measure_limits(fth_context* ctx);
// FLOP/s of the arithmetic of products with weights of this type, undisturbed.
double peak(fth_context* ctx, int32_t type);
// Bytes/s of reading `bytes` of a buffer again and again, and of copying one half of them to the other: bytes read plus
// bytes written.
double read_rate(fth_context* ctx, const Memory& memory, int64_t bytes);
double copy_rate(fth_context* ctx, const Memory& memory, int64_t bytes);
// Reads a buffer with all workers, each its own slice; what a kernel that reads it once cannot beat.
void read_all(fth_context* ctx, const char* data, int64_t bytes);

inline double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}
template <class F>
double seconds_of(F f) {
  const double start = now();
  f();
  return now() - start;
}

// Context switches that this process did not ask for, so far.
int64_t interruptions();

// Times of repeated runs. Those in which the system gave a core to somebody else count only if there are hardly others.
class Samples {
 public:
  // One sample: the mean of `repeats` runs, so many that looking at the clock does not count.
  template <class F>
  void time(F f, int64_t repeats = 1) {
    const int64_t before = interruptions();
    const double seconds = seconds_of([&] {
      for (int64_t i = 0; i < repeats; i++) f();
    });
    add(seconds / double(repeats), interruptions() != before);
  }
  // A run whose interruptions are what is being measured.
  void add(double seconds) { add(seconds, false); }
  double best() const;
  double median() const { return quantile(0.5); }
  double quantile(double q) const;
  int64_t size() const { return quiet_ >= kFew ? quiet_ : all_; }

 private:
  static constexpr int64_t kMost = 4096, kFew = 5;
  void add(double seconds, bool interrupted);
  const double* values() const { return quiet_ >= kFew ? quiet_values_ : all_values_; }

  double quiet_values_[kMost], all_values_[kMost];
  int64_t quiet_ = 0, all_ = 0;
};

// One line: `ideal` is what the machine's limits allow for the same work, in seconds.
struct Line {
  const char* operation;
  const char* what;
  int workers;
  double flops, bytes;
  double ideal;
};
void report(const Line& line, const Samples& samples);

// What the machine's limits allow for some work: reading its bytes or doing its arithmetic, whichever takes longer.
// Both alternate with the work, so that all see the same machine.
class Ideal {
 public:
  // type: of the weights, which says what arithmetic.
  Ideal(fth_context* ctx, int32_t type, double flops, double bytes)
      : ctx_(ctx), type_(type), flops_(flops), bytes_(bytes) {}
  void sample(const char* data);
  double read_seconds() const { return reads_.median(); }
  Line line(const char* operation, const char* what) const {
    const double read = reads_.median(), calculation = calculations_.median();
    return {operation, what, ctx_->info.workers, flops_, bytes_, read > calculation ? read : calculation};
  }

 private:
  fth_context* ctx_;
  int32_t type_;
  double flops_, bytes_;
  Samples reads_, calculations_;
};

#define MUST(ctx, call) bench::must(ctx, call)
void must(fth_context* ctx, fth_status status);

struct Bench {
  const char* name;
  void (*body)(fth_context*, const Options&);
  Bench* next;
  static Bench*& first();
  Bench(const char* n, void (*b)(fth_context*, const Options&)) : name(n), body(b), next(first()) {
    first() = this;
  }
};
#define BENCH(name)                                                  \
  static void name(fth_context* ctx, const bench::Options& options); \
  static bench::Bench name##_bench(#name, name);                     \
  static void name(fth_context* ctx, const bench::Options& options)

}  // namespace bench
