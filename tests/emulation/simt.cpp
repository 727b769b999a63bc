// The scheduler behind simt.h. Never instrumented: with SIMT_TSAN it tells the race detector about its fibers and about
// every ordering edge that the CUDA program really has.
#include "simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#ifdef SIMT_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#else
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void* __tsan_get_current_fiber() { return nullptr; }
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

#if defined(__SANITIZE_ADDRESS__)
#error "the engine switches stacks: build this file without the address sanitizer"
#endif

namespace simt {

thread_local Thread* self;
alignas(1024) thread_local unsigned char arena[kShared];

namespace {

void acquire(void* p) { __tsan_acquire(p); }
void release(void* p) { __tsan_release(p); }

// ---- switch of stacks: the callee-saved registers and the stack pointer ----
struct Context {
  void* stack_pointer = nullptr;
  void* tsan = nullptr;
};
extern "C" void simt_switch(void** save, void* load);
asm(".text\n.type simt_switch,@function\nsimt_switch:\n"
    " push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    " mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
    " pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n ret\n"
    ".section .note.GNU-stack,\"\",@progbits\n.text\n");

void prepare(Context& c, char* top, void (*entry)()) {
  void** p = reinterpret_cast<void**>(uintptr_t(top) & ~uintptr_t(15));
  *--p = nullptr;
  *--p = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--p = nullptr;
  c.stack_pointer = p;
}
void change(Context& from, Context& to) {
  __tsan_switch_to_fiber(to.tsan, 1);
  simt_switch(&from.stack_pointer, to.stack_pointer);
}

// ---- a block: its fibers, the runnable ones in order, groups waiting to be complete, bulk copies in flight ----
// Fixed arrays: anything allocated or moved here would look like an access of the CUDA program to the race detector.
constexpr size_t kStack = (64 << 10) + 832;  // the odd part keeps stacks out of one another's cache sets
constexpr int kThreads = 1024, kRooms = 96, kCopies = 1024;

struct Fiber : Thread {
  Context context;
  bool done;
  const char* at;
  Products products;
};
struct Room {
  const char* op;
  uint64_t key;
  int count;
  Arrival in[kThreads];
};
struct Bulk {
  Copy copy;
  uint64_t* barrier;
};
struct Block {
  Fiber fibers[kThreads];
  int threads;
  int ready[kThreads];
  unsigned head, tail;
  int alive, order, rooms, copies;
  uint64_t idle;  // turns of polling since anything else happened
  bool outside;   // in one of which another block was waited for
  char* stacks;
  Room room[kRooms];
  Bulk copy[kCopies];
  Context root;
  const std::function<void()>* kernel;
  std::mt19937 random;

  Block() {
    stacks = static_cast<char*>(mmap(nullptr, kThreads * kStack, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  ~Block() { munmap(stacks, kThreads * kStack); }

  void wake(int* who, int n) {
    if (order == 1) std::reverse(who, who + n);
    if (order == 2) std::shuffle(who, who + n, random);
    for (int i = 0; i < n; i++) ready[tail++ % kThreads] = who[i];
  }
};
thread_local Block* block;

// Gives the OS thread to the next fiber that can run.
void leave() {
  Block& b = *block;
  Fiber& me = static_cast<Fiber&>(*self);
  if (b.head == b.tail) {
    if (b.alive > 0) fail("deadlock");
    change(me.context, b.root);
    return;
  }
  Fiber& next = b.fibers[b.ready[b.head++ % kThreads]];
  if (&next == &me) return;
  self = &next;
  change(me.context, next.context);
}

// ---- mbarrier: arrivals expected and missing, phase, bytes missing ----
struct Bits {
  uint64_t expected : 12, missing : 12, phase : 1;
  int64_t bytes : 39;
};
Bits& bits(uint64_t* barrier) {
  Bits& w = *reinterpret_cast<Bits*>(barrier);
  if (w.expected == 4095) fail("mbarrier used before it was made");
  return w;
}
void settle(Bits& w) {
  if (w.missing != 0 || w.bytes != 0) return;
  w.phase ^= 1;
  w.missing = w.expected;
  block->idle = 0;
}

void entry() {
  acquire(block);
  (*block->kernel)();
  release(block);
  static_cast<Fiber*>(self)->done = true;
  block->alive--;
  block->idle = 0;
  leave();
  abort();
}

// ---- launches: the calling thread and as many helpers as are useful take blocks from one counter ----
struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  unsigned total;
  bool together;
  const std::function<void()>* kernel;
  std::atomic<unsigned> next{0};
};

constexpr size_t kCanary = 256;

void run_block(Block& b, Launch& l, unsigned i) {
  const int threads = b.threads;
  const size_t fresh = std::min(kShared, l.shared_bytes + kCanary);
  memset(arena, 0xff, fresh);  // fresh shared memory reads as not-a-number
  b.head = b.tail = 0;
  b.rooms = b.copies = 0;
  b.alive = threads;
  b.idle = 0;
  b.random.seed(i);
  int all[kThreads];
  for (int t = 0; t < threads; t++) {
    Fiber& f = b.fibers[t];
    f.copies.clear();
    f.open.clear();
    f.products.clear();
    f.linear = t;
    f.threads = threads;
    f.done = false;
    f.at = "start";
    f.block = l.block;
    f.grid = l.grid;
    f.tid = {t % l.block.x, t / l.block.x % l.block.y, t / (l.block.x * l.block.y)};
    f.bid = {i % l.grid.x, i / l.grid.x % l.grid.y, i / (l.grid.x * l.grid.y)};
    prepare(f.context, b.stacks + size_t(t + 1) * kStack, entry);
    all[t] = t;
  }
  b.wake(all, threads);
  release(&b);
  Fiber& first = b.fibers[b.ready[b.head++ % kThreads]];
  self = &first;
  change(b.root, first.context);
  acquire(&b);
  for (size_t at = l.shared_bytes; at < fresh; at++)
    if (arena[at] != 0xff) fail("a write behind the shared memory of the launch");
}

void work(Launch& l) {
  static thread_local std::unique_ptr<Block> owned;
  if (owned == nullptr) owned = std::make_unique<Block>();
  Block& b = *owned;
  block = &b;
  b.kernel = l.kernel;
  b.threads = int(l.block.x * l.block.y * l.block.z);
  const char* order = getenv("SIMT_ORDER");
  b.order = order == nullptr ? 0 : atoi(order);
  b.root.tsan = __tsan_get_current_fiber();
  for (int t = 0; t < b.threads; t++)
    if (b.fibers[t].context.tsan == nullptr) b.fibers[t].context.tsan = __tsan_create_fiber(0);
  acquire(&l);
  // Blocks that must run together each have a thread of their own.
  for (unsigned i; (i = l.next++) < l.total;) {
    run_block(b, l, i);
    if (l.together) break;
  }
  release(&l);
}

// Threads that sleep between launches.
class Helpers {
 public:
  void run(Launch& l, unsigned helpers) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_ < helpers) {
      std::thread([this, id = threads_] { loop(id); }).detach();
      threads_++;
    }
    launch_ = &l;
    wanted_ = helpers;
    busy_ = helpers;
    round_++;
    start_.notify_all();
    lock.unlock();
    work(l);
    lock.lock();
    done_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  void loop(unsigned id) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (id >= wanted_) continue;
      Launch& l = *launch_;
      lock.unlock();
      work(l);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  Launch* launch_ = nullptr;
  unsigned threads_ = 0, wanted_ = 0, busy_ = 0;
  uint64_t round_ = 0;
};

}  // namespace

Products& products() { return block->fibers[self->linear / 128 * 128].products; }

void fail(const char* why) {
  fprintf(stderr, "simt: %s (block %u,%u,%u, thread %d)\n", why, self->bid.x, self->bid.y, self->bid.z, self->linear);
  int shown = 0;
  for (int t = 0; t < block->threads && shown < 8; t++)
    if (!block->fibers[t].done) {
      fprintf(stderr, "  thread %d is at %s\n", t, block->fibers[t].at);
      shown++;
    }
  _Exit(99);
}

void yield(const char* at, bool outside) {
  // Other blocks get time, and much of it, before a block gives up that waits for one of them.
  constexpr uint64_t kMost = 2'000'000, kMostOutside = 400'000'000, kTurns = 64;
  Block& b = *block;
  static_cast<Fiber*>(self)->at = at;
  if (b.idle == 0) b.outside = false;
  b.outside = b.outside || outside;
  if (++b.idle > (b.outside ? kMostOutside : kMost)) fail("no progress");
  if (b.head == b.tail || (b.outside && b.idle % kTurns == 0)) std::this_thread::yield();
  b.wake(&self->linear, 1);
  leave();
}

void meet(const char* op, uint64_t key, int want, void* arg, void (*act)(Arrival*, int, void*), void* context) {
  Block& b = *block;
  b.idle = 0;
  int i = 0;
  while (i < b.rooms && b.room[i].key != key) i++;
  if (i == b.rooms) {
    if (b.rooms == kRooms) fail("too many different groups of threads");
    Room& fresh = b.room[b.rooms++];
    fresh.op = op;
    fresh.key = key;
    fresh.count = 0;
  }
  Room& r = b.room[i];
  if (r.count == 0) r.op = op;
  if (r.op != op && strcmp(r.op, op) != 0) fail("threads of one group meet in different operations");
  r.in[r.count++] = {self->linear, arg};
  static_cast<Fiber*>(self)->at = op;
  release(&r);
  if (r.count == want) {
    acquire(&r);
    act(r.in, want, context);
    release(&r);
    int who[kThreads];
    for (int t = 0; t < want; t++) who[t] = r.in[t].linear;
    r.count = 0;
    b.wake(who, want);
  }
  leave();
  acquire(&r);
}

void barrier_init(uint64_t* barrier, int arrivals) {
  Bits w{};
  w.expected = w.missing = unsigned(arrivals);
  memcpy(barrier, &w, sizeof w);
  release(barrier);
}

void barrier_arrive(uint64_t* barrier, int64_t bytes) {
  Bits& w = bits(barrier);
  if (w.missing == 0) fail("mbarrier: more arrivals than it was made for");
  release(barrier);
  w.bytes = w.bytes + bytes;
  w.missing--;
  settle(w);
}

void bulk_copy(void* to, const void* from, size_t bytes, uint64_t* barrier) {
  if (uintptr_t(to) % 16 != 0 || uintptr_t(from) % 16 != 0 || bytes % 16 != 0)
    fail("cp.async.bulk: address or size not a multiple of 16");
  if (block->copies == kCopies) fail("too many bulk copies in flight");
  memset(to, 0xff, bytes);
  release(barrier);
  block->copy[block->copies++] = {{to, from, bytes}, barrier};
}

// A bulk copy lands when somebody waits for it.
void barrier_wait(uint64_t* barrier, int parity) {
  Bits& w = bits(barrier);
  while (w.phase == unsigned(parity)) {
    bool landed = false;
    for (int i = 0; i < block->copies;) {
      const Bulk c = block->copy[i];
      if (c.barrier != barrier) {
        i++;
        continue;
      }
      block->copy[i] = block->copy[--block->copies];
      acquire(barrier);
      memcpy(c.copy.to, c.copy.from, c.copy.bytes);
      release(barrier);
      w.bytes = w.bytes - int64_t(c.copy.bytes);
      landed = true;
      settle(w);
      if (w.phase != unsigned(parity)) break;
    }
    if (!landed) yield("mbarrier wait");
  }
  acquire(barrier);
}

bool barrier_done(uint64_t* barrier, int parity) {
  const bool done = bits(barrier).phase != unsigned(parity);
  if (done) acquire(barrier);
  return done;
}

void launch(dim3 grid, dim3 dim, size_t shared_bytes, bool together, const std::function<void()>& kernel) {
  static std::mutex one;  // launches of all streams follow one another
  static Helpers& helpers = *new Helpers;  // outlives its detached threads
  const size_t threads = size_t(dim.x) * dim.y * dim.z;
  if (threads == 0 || threads > kThreads || shared_bytes > kShared) {
    fprintf(stderr, "simt: a launch of %zu threads and %zu bytes of shared memory\n", threads, shared_bytes);
    _Exit(99);
  }
  std::lock_guard<std::mutex> lock(one);
  Launch l;
  l.grid = grid;
  l.block = dim;
  l.shared_bytes = shared_bytes;
  l.total = grid.x * grid.y * grid.z;
  l.together = together;
  l.kernel = &kernel;
  release(&l);
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const unsigned workers = together ? l.total : std::min(l.total, cores);
  if (workers <= 1) work(l);
  else helpers.run(l, workers - 1);
  acquire(&l);
}

// ---- streams, of which there is one ----

namespace {
Work* kept = nullptr;
}

void enqueue(std::function<void()> work) {
  if (kept == nullptr) work();
  else kept->push_back(std::move(work));
}
void capture(Work* into) { kept = into; }
Work* captured() { return kept; }

}  // namespace simt
