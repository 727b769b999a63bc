// Worker threads of a context. A job is a number of items; every worker first runs its own contiguous share, always the
// same for the same number of items (so that a core's cache keeps its slice of the weights), then helps the others.
// Which thread runs an item never changes a result: items are independent and fix their own reduction order. In a child
// process of fork() there are no helpers, and the calling thread does all.
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
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  struct Thread;
  static void* thread_main(void* thread);
  void work(int worker);

  int workers_ = 0;
  pid_t process_ = 0;  // whose threads the helpers are
  Thread* threads_ = nullptr;
  Share* shares_ = nullptr;
  Job job_ = nullptr;
  void* closure_ = nullptr;
  int64_t grain_ = 1;
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> epoch_{0};     // rises by one per job; workers wait for it to change
  alignas(64) std::atomic<uint32_t> running_{0};   // helpers still inside the current job; the caller waits for 0
  alignas(64) std::atomic<uint32_t> sleepers_{0};  // helpers that went to sleep and need a wake
  std::atomic<uint32_t> caller_sleeps_{0};
};

}  // namespace fth
