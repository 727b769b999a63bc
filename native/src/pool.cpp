#include "pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace fth {
namespace {

// A worker spins this long for the next job before it sleeps: longer than the gaps inside a step, short enough that an
// idle process burns nothing.
constexpr int64_t kSpinNanoseconds = 30000;

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

// Spins until word differs from `value` (true) or the spin time is over (false).
bool spin_while(const std::atomic<uint32_t>& word, uint32_t value) {
  const int64_t deadline = now_nanoseconds() + kSpinNanoseconds;
  do {
    for (int i = 0; i < 32; i++) {
      if (word.load(std::memory_order_acquire) != value) return true;
      pause();
    }
  } while (now_nanoseconds() < deadline);
  return false;
}

}  // namespace

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
  for (int i = 0; i < workers; i++) {
    shares_[i].next.store(0, std::memory_order_relaxed);
    shares_[i].end = 0;
  }
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
  stopping_ = true;
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
  uint32_t seen = 0;
  for (;;) {
    while (!spin_while(pool->epoch_, seen)) {
      pool->sleepers_.fetch_add(1);  // before the check inside futex_wait, so that a poster sees the sleeper
      futex_wait(&pool->epoch_, seen);
      pool->sleepers_.fetch_sub(1);
    }
    seen = pool->epoch_.load(std::memory_order_acquire);
    if (pool->stopping_) return nullptr;
    pool->work(self->worker);
    if (pool->running_.fetch_sub(1) == 1 && pool->caller_sleeps_.load()) futex_wake(&pool->running_, 1);
  }
}

void Pool::work(int worker) {
  for (int i = 0; i < workers_; i++) {
    Share& share = shares_[(worker + i) % workers_];
    for (;;) {
      const int64_t begin = share.next.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= share.end) break;
      job_(closure_, begin, begin + grain_ < share.end ? begin + grain_ : share.end, worker);
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
  job_ = job;
  closure_ = closure;
  grain_ = grain;
  for (int w = 0; w < workers_; w++) {
    const int64_t end = pieces * (w + 1) / workers_ * grain;
    shares_[w].next.store(pieces * w / workers_ * grain, std::memory_order_relaxed);
    shares_[w].end = end < items ? end : items;
  }
  running_.store(uint32_t(workers_ - 1), std::memory_order_relaxed);
  epoch_.fetch_add(1);
  if (sleepers_.load()) futex_wake(&epoch_, INT_MAX);

  work(0);

  uint32_t left;
  while ((left = running_.load(std::memory_order_acquire)) != 0) {
    if (spin_while(running_, left)) continue;
    if (process_ != getpid()) {  // the helpers stayed behind in a fork()'s parent; the caller has run their shares too
      workers_ = 1;
      return;
    }
    caller_sleeps_.store(1);
    if (running_.load() == left) futex_wait(&running_, left);
    caller_sleeps_.store(0);
  }
}

}  // namespace fth
