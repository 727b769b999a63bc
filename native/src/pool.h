// Worker threads of a context. A job is a number of items; every worker first runs its own contiguous share, always the
// same for the same number of items (so that a core's cache keeps its slice of the weights), then takes what others
// have left. Which thread runs an item never changes a result: items are independent and fix their own reduction order.
//
// The caller is a worker and never waits for one that has not begun: it opens a share for each, works until every piece
// is taken, closes the shares that nobody came for, and waits only for those inside. So a helper that sleeps, or whose
// core the system has given to somebody else, costs its share of the work and no more. In a child process of fork() no
// helper ever begins, and the calling thread does all.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <cstdint>

namespace fth {

class Pool {
 public:
  using Job = void (*)(void* closure, int64_t begin, int64_t end, int worker);

  // Starts workers - 1 threads; false if the system refuses one.
  bool start(int workers);
  void stop();
  int workers() const { return workers_; }

  // Calls job on [0, items) in pieces of at most `grain`; returns when all are done.
  void run(int64_t items, int64_t grain, Job job, void* closure);

 private:
  struct Share;
  struct Thread;
  static void* thread_main(void* thread);
  // Returns when the worker's share is open; false: the pool stops.
  bool wait_for_job(const Share& share);
  void work(int worker);
  // Shuts out a helper that has not begun, and waits for one that has.
  static void close(Share& share);

  int workers_ = 0;
  pid_t process_ = 0;  // whose threads the helpers are
  Thread* threads_ = nullptr;
  Share* shares_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};     // rises by one per job; sleepers wait for it to change
  alignas(64) std::atomic<uint32_t> sleepers_{0};  // helpers that went to sleep and need a wake
};

}  // namespace fth
