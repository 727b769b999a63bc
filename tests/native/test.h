// A small test harness: TEST bodies register themselves, EXPECT reports and goes on. Guarded<T> puts a buffer against
// an unreadable page, so that one element too far is a crash. A program's argument names the tests to run, by a part.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <initializer_list>

#include "device_memory.h"
#include "fathom/fathom.h"

namespace test {

struct Case {
  const char* name;
  void (*body)();
  Case* next;
  static Case*& first() { static Case* head = nullptr; return head; }
  Case(const char* n, void (*b)()) : name(n), body(b), next(nullptr) {
    Case** at = &first();
    while (*at != nullptr) at = &(*at)->next;
    *at = this;
  }
};
inline int& failures() { static int count = 0; return count; }

#define TEST(name)                                 \
  static void name();                              \
  static test::Case name##_case(#name, name);      \
  static void name()

#define EXPECT(condition, ...)                                              \
  do {                                                                      \
    if (!(condition)) {                                                     \
      if (test::failures()++ < 20) {                                        \
        printf("%s:%d: expected %s. ", __FILE__, __LINE__, #condition);     \
        printf(" " __VA_ARGS__);                                            \
        printf("\n");                                                       \
      }                                                                     \
    }                                                                       \
  } while (0)

// `count` elements that end exactly where an inaccessible page begins (head = false) or begin where one ends (true).
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count, bool head = false) : count_(count) {
    const size_t page = 4096, bytes = size_t(count) * sizeof(T), body = (bytes + page - 1) / page * page;
    total_ = body + 2 * page;
    map_ = static_cast<char*>(mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(map_, page, PROT_NONE);
    mprotect(map_ + page + body, page, PROT_NONE);
    lend(map_ + page, body);
    data_ = reinterpret_cast<T*>(head ? map_ + page : map_ + page + body - bytes);
  }
  ~Guarded() {
    if (count_ > 0) take_back(map_ + 4096);
    munmap(map_, total_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  T* get() const { return data_; }
  operator T*() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }
  void copy_from(const T* source) { memcpy(data_, source, size_t(count_) * sizeof(T)); }
  // From now on a write is a crash, too.
  void protect() { mprotect(map_ + 4096, total_ - 2 * 4096, PROT_READ); }

 private:
  int64_t count_;
  size_t total_;
  char* map_;
  T* data_;
};

// xorshift*; uniform in [-1, 1).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint64_t bits() {
    state_ ^= state_ >> 12; state_ ^= state_ << 25; state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1DULL;
  }
  float uniform() { return float(bits() >> 40) * 0x1p-23f - 1.f; }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  template <class A>
  void fill(A&& array, int64_t n, float scale = 1.f) { for (int64_t i = 0; i < n; i++) array[i] = uniform() * scale; }

 private:
  uint64_t state_;
};

// What contexts of this program run on: instruction sets 0 .. last_isa(), or a CUDA device (FATHOM_TEST_CUDA), which has
// but one.
#ifdef FATHOM_TEST_CUDA
constexpr bool kCuda = true;
inline int32_t last_isa() { return 0; }
#else
constexpr bool kCuda = false;
inline int32_t last_isa() { return fth_isa_best(); }
#endif
constexpr int32_t kStored = kCuda ? 16 : 4;  // alignment of fp32 weights and of pools

// Under the race detector, where kernels are slow, tests look at every n-th of their shapes.
#ifdef __SANITIZE_THREAD__
inline bool sampled(int n) {
  static int shape = 0;
  return shape++ % n == 0;
}
#else
inline bool sampled(int) { return true; }
#endif

class Context {
 public:
  explicit Context(int32_t isa = FTH_ISA_AUTO, int32_t workers = 1) {
    char message[256];
    if (fth_context_create(kCuda ? FTH_CUDA : FTH_CPU, kCuda ? 0 : workers, isa, message, sizeof message, &ctx_) !=
        FTH_OK) {
      printf("%s\n", message);
      abort();
    }
  }
  ~Context() { fth_context_destroy(ctx_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  operator fth_context*() const { return ctx_; }
  const char* message() const { return fth_context_message(ctx_); }

 private:
  fth_context* ctx_;
};

// The call succeeds, and what it enqueued is done.
#define EXPECT_OK(ctx, call)                                       \
  do {                                                             \
    fth_status status_ = (call);                                   \
    if (status_ == FTH_OK) status_ = fth_synchronize(ctx);         \
    EXPECT(status_ == FTH_OK, "%s", (ctx).message());              \
  } while (0)
// The call is refused and the sentence mentions `word`.
#define EXPECT_REFUSED(ctx, word, call)                                                              \
  do {                                                                                               \
    const fth_status status_ = (call);                                                               \
    EXPECT(status_ == FTH_INVALID_ARGUMENT && strstr((ctx).message(), word), "%d: %s", status_, (ctx).message()); \
  } while (0)

// The call is refused and the sentence begins like this one.
#define EXPECT_REFUSED_AS(ctx, sentence, call)                                                             \
  do {                                                                                                     \
    const fth_status status_ = (call);                                                                     \
    EXPECT(status_ == FTH_INVALID_ARGUMENT && strncmp((ctx).message(), sentence, strlen(sentence)) == 0,   \
           "%s, got %d: %s", sentence, status_, (ctx).message());                                          \
  } while (0)

inline fth_row row() { return {0, ~uint64_t(0), 0, 0, 0, 0, -1, 0}; }

}  // namespace test

#ifndef FATHOM_TEST_NO_MAIN
static int run_tests(int argc, char** argv) {
  int cases = 0, failed = 0;
  for (test::Case* c = test::Case::first(); c != nullptr; c = c->next) {
    if (argc > 1 && strstr(c->name, argv[1]) == nullptr) continue;
    const int before = test::failures();
    c->body();
    cases++;
    if (test::failures() != before) { failed++; printf("FAILED %s\n", c->name); }
  }
  printf("%d passed, %d failed\n", cases - failed, failed);
  return failed != 0 || cases == 0;
}
int main(int argc, char** argv) { return test::with_memory_lent(run_tests, argc, argv); }
#endif
