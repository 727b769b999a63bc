#include "pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <new>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace fth {
namespace {

// How long a worker waits awake before it sleeps: longer than the gaps inside a step, short enough that an idle process
// burns nothing, and a small part of a time slice where somebody else wants the core.
constexpr int64_t kSpinNanoseconds = 60000;

// Sleepers that are woken at once, each of which wakes as many: a caller does not wake a whole machine alone.
constexpr int kWakes = 2;

// Share::state. Awaited: inside, and the caller sleeps until it is not.
enum : uint32_t { kIdle, kOpen, kInside, kAwaited, kStopping };

void futex_wait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}
void futex_wake(std::atomic<uint32_t>* word, int count) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

int64_t now_nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * int64_t(1000000000) + t.tv_nsec;
}

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// False if it did not come true in time.
template <class F>
bool spin_until(F condition) {
  const int64_t deadline = now_nanoseconds() + kSpinNanoseconds;
  do {
    for (int i = 0; i < 32; i++, pause())
      if (condition()) return true;
  } while (now_nanoseconds() < deadline);
  return false;
}

}  // namespace

// A worker's part of a job, in one cache line: all that it needs to begin.
struct alignas(64) Pool::Share {
  std::atomic<int64_t> next;  // the first item that nobody has taken
  int64_t end;
  int64_t grain;
  Job job;
  void* closure;
  std::atomic<uint32_t> state;  // of the worker whose share it is

  bool is(uint32_t wanted) const { return state.load(std::memory_order_acquire) == wanted; }
};

struct Pool::Thread {
  Pool* pool;
  int worker;
  pthread_t handle;
};

bool Pool::start(int workers) {
  process_ = getpid();
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, sizeof(Share) * size_t(workers)) != 0) return false;
  shares_ = static_cast<Share*>(memory);
  for (int i = 0; i < workers; i++) new (&shares_[i]) Share{};
  threads_ = static_cast<Thread*>(calloc(size_t(workers), sizeof(Thread)));
  workers_ = 1;
  if (threads_ == nullptr) { stop(); return false; }

  sigset_t all, before;  // signals belong to the host process
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = true;
  for (int i = 1; i < workers && started; i++) {
    threads_[i] = {this, i, {}};
    started = pthread_create(&threads_[i].handle, nullptr, thread_main, &threads_[i]) == 0;
    if (started) workers_++;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!started) stop();
  return started;
}

void Pool::stop() {
  for (int i = 1; i < workers_; i++) shares_[i].state.store(kStopping);
  epoch_.fetch_add(1);
  futex_wake(&epoch_, INT_MAX);
  for (int i = 1; i < workers_ && process_ == getpid(); i++) pthread_join(threads_[i].handle, nullptr);
  free(threads_);
  free(shares_);
  threads_ = nullptr;
  shares_ = nullptr;
  workers_ = 0;
}

void* Pool::thread_main(void* argument) {
  Thread* self = static_cast<Thread*>(argument);
  Pool* pool = self->pool;
  Share& share = pool->shares_[self->worker];
  while (pool->wait_for_job(share)) {
    uint32_t open = kOpen;
    if (!share.state.compare_exchange_strong(open, kInside)) continue;  // over before this worker came
    pool->work(self->worker);
    if (share.state.exchange(kIdle) == kAwaited) futex_wake(&share.state, 1);
  }
  return nullptr;
}

bool Pool::wait_for_job(const Share& share) {
  for (;;) {
    uint32_t state = kIdle;  // as it was seen: a job may be over at once, which is not the end
    if (spin_until([&] { return (state = share.state.load(std::memory_order_acquire)) != kIdle; }))
      return state != kStopping;
    // Whoever opens a job raises epoch_ and then looks for sleepers: either it sees this one, or this one sees the job.
    sleepers_.fetch_add(1);
    const uint32_t epoch = epoch_.load();
    if (share.is(kIdle)) futex_wait(&epoch_, epoch);
    sleepers_.fetch_sub(1);
    if (sleepers_.load() > 0) futex_wake(&epoch_, kWakes);
  }
}

void Pool::work(int worker) {
  const Share& own = shares_[worker];
  for (int i = 0; i < workers_; i++) {
    Share& share = shares_[(worker + i) % workers_];
    while (share.next.load(std::memory_order_relaxed) < share.end) {
      const int64_t begin = share.next.fetch_add(own.grain, std::memory_order_relaxed);
      if (begin >= share.end) break;
      own.job(own.closure, begin, begin + own.grain < share.end ? begin + own.grain : share.end, worker);
    }
  }
}

void Pool::run(int64_t items, int64_t grain, Job job, void* closure) {
  if (items <= 0) return;
  const int64_t pieces = (items + grain - 1) / grain;
  if (workers_ == 1 || pieces == 1) {
    for (int64_t i = 0; i < items; i += grain) job(closure, i, i + grain < items ? i + grain : items, 0);
    return;
  }
  for (int w = 0; w < workers_; w++) {
    Share& share = shares_[w];
    const int64_t end = pieces * (w + 1) / workers_ * grain;
    share.next.store(pieces * w / workers_ * grain, std::memory_order_relaxed);
    share.end = end < items ? end : items;
    share.grain = grain;
    share.job = job;
    share.closure = closure;
  }
  // Only when all shares are there: who is done with the own one looks into the others.
  for (int w = 1; w < workers_; w++) shares_[w].state.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) futex_wake(&epoch_, kWakes);

  work(0);

  for (int w = 1; w < workers_; w++) close(shares_[w]);
}

void Pool::close(Share& share) {
  uint32_t open = kOpen;
  if (share.is(kIdle) || share.state.compare_exchange_strong(open, kIdle)) return;
  if (spin_until([&] { return share.is(kIdle); })) return;
  for (uint32_t inside = kInside; !share.is(kIdle); inside = kInside)
    if (share.state.compare_exchange_strong(inside, kAwaited) || inside == kAwaited)
      futex_wait(&share.state, kAwaited);
}

}  // namespace fth
