// Workers: how soon they begin, and what a step loses when something else runs on every core.
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include <atomic>

#include "block_step.h"

namespace {

void spin_for(double seconds) {
  for (const double until = bench::now() + seconds; bench::now() < until;) { }
}
void sleep_for(double seconds) {
  const timespec t{0, int64_t(seconds * 1e9)};
  nanosleep(&t, nullptr);
}

// A thread on each core that this process may use, which never rests.
class BusyCores {
 public:
  BusyCores() {
    cpu_set_t cores;
    sched_getaffinity(0, sizeof cores, &cores);
    for (int core = 0; core < CPU_SETSIZE && count_ < kMost; core++) {
      if (!CPU_ISSET(core, &cores)) continue;
      cpu_set_t own;
      CPU_ZERO(&own);
      CPU_SET(core, &own);
      pthread_create(&threads_[count_], nullptr, main, this);
      pthread_setaffinity_np(threads_[count_++], sizeof own, &own);
    }
  }
  ~BusyCores() {
    stop_ = true;
    for (int i = 0; i < count_; i++) pthread_join(threads_[i], nullptr);
  }

 private:
  static constexpr int kMost = 1024;
  static void* main(void* self) {
    while (!static_cast<BusyCores*>(self)->stop_.load(std::memory_order_relaxed)) { }
    return nullptr;
  }
  std::atomic<bool> stop_{false};
  pthread_t threads_[kMost];
  int count_ = 0;
};

// A job of one item per worker that returns when all workers have been inside at the same time.
void meet(fth_context* ctx) {
  std::atomic<int> here{0};
  const int workers = ctx->info.workers;
  fth::parallel(ctx, workers, 1, [&](int64_t, int64_t, int) {
    here.fetch_add(1);
    while (here.load(std::memory_order_acquire) != workers) { }
  });
}

// The same with threads that are made for it.
void meet_new_threads(fth_context* ctx) {
  static std::atomic<int> here;
  static int workers;
  here = 0;
  workers = ctx->info.workers;
  const auto body = [](void*) -> void* {
    here.fetch_add(1);
    while (here.load(std::memory_order_acquire) != workers) { }
    return nullptr;
  };
  pthread_t threads[1024];
  for (int i = 1; i < workers; i++) pthread_create(&threads[i], nullptr, body, nullptr);
  body(nullptr);
  for (int i = 1; i < workers; i++) pthread_join(threads[i], nullptr);
}

template <class Meet, class Before>
void fork_join(fth_context* ctx, const bench::Options& options, const char* what, Meet meet, Before before) {
  bench::Samples samples;
  const double until = bench::now() + options.seconds;
  do {
    before();
    samples.time([&] { meet(ctx); });
  } while (bench::now() < until);
  bench::report({"pool", what, ctx->info.workers, 0, 0, 0}, samples);
}

// A single row takes so many passes through a layer, alone and beside a busy thread per core.
void slowdown(fth_context* ctx, const bench::Options& options, int passes) {
  bench::BlockStep step(ctx, 1, 1);
  const auto run = [&](double seconds) {
    bench::Samples samples;
    const double until = bench::now() + seconds;
    do {
      samples.add(bench::seconds_of([&] {
        for (int i = 0; i < passes; i++) step.run();
      }));
    } while (bench::now() < until);
    return samples;
  };
  run(0.1);
  const bench::Samples quiet = run(2 * options.seconds);
  const bench::Samples busy = [&] {
    const BusyCores cores;
    run(0.1);
    return run(8 * options.seconds);
  }();
  const double flops = passes * step.flops(), bytes = passes * double(step.weight_bytes());
  char what[64];
  snprintf(what, sizeof what, "%d passes of a layer", passes);
  bench::report({"pool", what, ctx->info.workers, flops, bytes, quiet.median()}, quiet);
  snprintf(what, sizeof what, "%d passes of a layer, busy cores", passes);
  bench::report({"pool", what, ctx->info.workers, flops, bytes, quiet.median()}, busy);
  printf("%-10s   %.2f times as long in the median, %.2f in the 95th percentile\n", "",
         busy.median() / quiet.median(), busy.quantile(0.95) / quiet.quantile(0.95));
}

}  // namespace

// The limit of a step on busy cores is the quiet one.
BENCH(pool) {
  fork_join(ctx, options, "all workers meet, at once", meet, [] { });
  fork_join(ctx, options, "all workers meet, after 50 us", meet, [] { spin_for(50e-6); });
  fork_join(ctx, options, "all workers meet, after 5 ms of rest", meet, [] { sleep_for(5e-3); });
  fork_join(ctx, options, "all workers meet, as new threads", meet_new_threads, [] { });
  for (int passes : {1, 32}) slowdown(ctx, options, passes);
}
