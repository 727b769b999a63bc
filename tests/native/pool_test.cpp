// The workers: every item once, whoever comes late or is held up; and an idle pool costs nothing.
#include "pool.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test.h"

namespace {

class Workers {
 public:
  explicit Workers(int count) { EXPECT(pool_.start(count) && pool_.workers() == count, "%d", count); }
  ~Workers() { pool_.stop(); }

  template <class F>
  void run(int64_t items, int64_t grain, F body) {
    pool_.run(items, grain, [](void* f, int64_t begin, int64_t end, int w) { (*static_cast<F*>(f))(begin, end, w); },
              &body);
  }

 private:
  fth::Pool pool_;
};

void sleep_for(int64_t nanoseconds) {
  const timespec t{time_t(nanoseconds / 1000000000), long(nanoseconds % 1000000000)};
  nanosleep(&t, nullptr);
}

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

}  // namespace

TEST(every_item_runs_once) {
  for (int workers : {1, 2, 3, 8}) {
    Workers pool(workers);
    for (int64_t items : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64, 2000}) {
        std::atomic<int> runs[1000] = {};
        std::atomic<bool> good{true};
        pool.run(items, grain, [&](int64_t begin, int64_t end, int worker) {
          if (begin < 0 || begin >= end || end > items || end - begin > grain || worker < 0 || worker >= workers)
            good = false;
          for (int64_t i = begin; i < end; i++) runs[i].fetch_add(1, std::memory_order_relaxed);
        });
        for (int64_t i = 0; i < 1000; i++) good = good && runs[i] == (i < items);
        EXPECT(good, "%d workers, %lld items, grain %lld", workers, (long long)items, (long long)grain);
      }
    }
  }
}

// A job that is over before its helpers came does not send them away for good.
TEST(helpers_outlive_jobs_they_missed) {
  Workers pool(3);
  for (int job = 0; job < 200000; job++) pool.run(3, 1, [](int64_t, int64_t, int) {});
  std::atomic<bool> came[3] = {};
  for (int job = 0; job < 1000 && !(came[1] && came[2]); job++)
    pool.run(30, 1, [&](int64_t, int64_t, int worker) {
      came[worker] = true;
      sleep_for(1000000);
    });
  EXPECT(came[1] && came[2], "%d %d", int(came[1]), int(came[2]));
}

// What one job writes the next one reads on other threads, without atomics; more workers than cores, so that helpers
// come late, are held up inside, and miss jobs.
TEST(jobs_follow_one_another) {
  constexpr int64_t kItems = 97;
  Workers pool(7);
  int64_t value[2][kItems] = {};
  int64_t want = 0;
  for (int job = 0; job < 20000; job++) {
    const int64_t *from = value[job % 2], step = job % 5;
    int64_t* const to = value[(job + 1) % 2];
    pool.run(kItems, 1 + job % 3, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) to[i] = from[kItems - 1 - i] + step;
    });
    want += step;
    if (job % 1000 == 0) sleep_for(200000);  // some go to sleep between
  }
  for (int64_t got : value[0]) EXPECT(got == want, "%lld", (long long)got);
}

// Everybody is waited for who has begun, however long it takes.
TEST(waits_for_who_is_inside) {
  Workers pool(4);
  for (int round = 0; round < 20; round++) {
    std::atomic<int> inside{0}, done{0};
    pool.run(4, 1, [&](int64_t, int64_t, int) {
      inside++;
      for (int i = 0; i < 1000 && inside < 4; i++) sleep_for(100000);
      sleep_for(round * 50000);
      done++;
    });
    EXPECT(done == 4 && inside == 4, "%d of %d", int(done), int(inside));
  }
}

// Nobody waits for who has not: in a child process, whose helpers stayed behind, the caller does everything.
TEST(does_the_work_of_who_never_comes) {
  Workers pool(4);
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    int64_t items = 0;
    for (int job = 0; job < 100; job++)
      pool.run(64, 1, [&](int64_t begin, int64_t end, int worker) { items += worker == 0 ? end - begin : 0; });
    _exit(items == 6400 ? 0 : 1);
  }
  int status = -1;
  EXPECT(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(an_idle_pool_uses_no_cpu) {
  Workers pool(4);
  std::atomic<int64_t> items{0};
  for (int job = 0; job < 100; job++) pool.run(64, 1, [&](int64_t begin, int64_t end, int) { items += end - begin; });
  sleep_for(50000000);
  const double before = cpu_seconds();
  sleep_for(200000000);
  const double used = cpu_seconds() - before;
  EXPECT(items == 6400 && used < 0.02, "%g s", used);
}

TEST(starts_and_stops) {
  for (int i = 0; i < 200; i++) {
    Workers pool(1 + i % 6);
    std::atomic<int> items{0};
    if (i % 3 > 0) pool.run(i % 9, 1, [&](int64_t begin, int64_t end, int) { items += int(end - begin); });
    EXPECT(items == (i % 3 > 0 ? i % 9 : 0));
  }
}
