#include "device_memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <mutex>
#include <new>

#include "fathom/fathom.h"
#include "gpu.h"

// Of the CUDA runtime: 0 is success; flags 1 and 2: for all contexts, mapped.
extern "C" int cudaHostRegister(void* p, size_t bytes, unsigned flags);
extern "C" int cudaHostUnregister(void* p);
// The linker's: the first and the last address of variables.
extern "C" char __data_start, _end;

namespace {

constexpr size_t kPage = 4096, kStack = size_t(64) << 20;

void need(bool done, const char* what) {
  if (done) return;
  fprintf(stderr, "%s could not be pinned for the device\n", what);
  _Exit(1);
}

// ---- the heap: powers of two out of pinned slabs, handed back to lists of their size ----
struct Head {  // 64 bytes before what is handed out, so that it stays aligned as slabs are
  Head* next;
  size_t bytes;  // 0: from malloc
};
constexpr size_t kHead = 64, kSlab = size_t(64) << 20;
struct Heap {
  std::mutex mutex;
  Head* vacant[64];
  char *at, *end;
};
alignas(Heap) char heap_memory[sizeof(Heap)];
bool lending = false;
thread_local bool inside = false;  // the runtime may itself allocate while it pins
struct Inside {
  Inside() { inside = true; }
  ~Inside() { inside = false; }
};

void* allocate(size_t wanted) {
  Head* head;
  if (!lending || inside) {
    head = static_cast<Head*>(aligned_alloc(kHead, (wanted + 2 * kHead - 1) / kHead * kHead));
    if (head == nullptr) return nullptr;
    head->bytes = 0;
    return reinterpret_cast<char*>(head) + kHead;
  }
  Heap& heap = *reinterpret_cast<Heap*>(heap_memory);
  int size = 7;
  while ((size_t(1) << size) < wanted + kHead) size++;
  const size_t bytes = size_t(1) << size;
  std::lock_guard<std::mutex> lock(heap.mutex);
  if (heap.vacant[size] != nullptr) {
    head = heap.vacant[size];
    heap.vacant[size] = head->next;
  } else {
    if (size_t(heap.end - heap.at) < bytes) {
      const size_t slab = bytes < kSlab ? kSlab : bytes;
      const Inside now;
      heap.at = static_cast<char*>(fth::gpu::allocate_pinned(slab));
      if (heap.at == nullptr) {
        heap.end = nullptr;
        return nullptr;
      }
      heap.end = heap.at + slab;
    }
    head = reinterpret_cast<Head*>(heap.at);
    heap.at += bytes;
  }
  head->bytes = bytes;
  return reinterpret_cast<char*>(head) + kHead;
}
void release(void* p) {
  if (p == nullptr) return;
  Head* head = reinterpret_cast<Head*>(static_cast<char*>(p) - kHead);
  if (head->bytes == 0) return free(head);
  Heap& heap = *reinterpret_cast<Heap*>(heap_memory);
  std::lock_guard<std::mutex> lock(heap.mutex);
  int size = 7;
  while ((size_t(1) << size) < head->bytes) size++;
  head->next = heap.vacant[size];
  heap.vacant[size] = head;
}

void pin(void* pages, size_t bytes, const char* what) {
  const Inside now;
  need(cudaHostRegister(pages, bytes, 1 | 2) == 0, what);
}

struct Program {
  int (*run)(int, char**);
  int argc;
  char** argv;
  int result;
};

}  // namespace

void* operator new(size_t bytes) {
  void* p = allocate(bytes);
  if (p == nullptr) abort();
  return p;
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, size_t) noexcept { release(p); }
void operator delete[](void* p, size_t) noexcept { release(p); }

void test::lend(void* pages, size_t bytes) {
  if (bytes > 0) pin(pages, bytes, "memory of a test");
}
void test::take_back(void* pages) {
  const Inside now;
  cudaHostUnregister(pages);
}

int test::with_memory_lent(int (*program)(int, char**), int argc, char** argv) {
  char why[160];
  if (fth::gpu::device_count(why, sizeof why) == 0) {
    printf("skipped: %s\n", why);
    return kSkipped;
  }
  new (heap_memory) Heap{};
  lending = true;
  const uintptr_t first = reinterpret_cast<uintptr_t>(&__data_start) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(&_end) + kPage - 1) / kPage * kPage;
  pin(reinterpret_cast<void*>(first), last - first, "variables of the program");
  void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  need(stack != MAP_FAILED, "the stack");
  pin(stack, kStack, "the stack");
  Program p{program, argc, argv, 1};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, stack, kStack);
  pthread_t thread;
  const auto body = [](void* q) -> void* {
    Program& program = *static_cast<Program*>(q);
    program.result = program.run(program.argc, program.argv);
    return nullptr;
  };
  need(pthread_create(&thread, &attributes, body, &p) == 0, "the stack");
  pthread_join(thread, nullptr);
  return p.result;
}
