// The context itself: how it is made and what it refuses, the choice of an instruction set, one call at a time, memory
// that cannot be had, child processes, and memory from the operating system.
#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "arguments.h"

using test::Guarded;

#if defined(__SANITIZE_ADDRESS__)
static constexpr bool kAddressSanitizer = true;
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
#else
static constexpr bool kAddressSanitizer = false;
#endif

namespace {

fth_context* const kGarbage = reinterpret_cast<fth_context*>(1);

// Creates a context, takes what it tells, and destroys it.
struct Created {
  fth_status status;
  std::string message;
  fth_info info{};

  Created(int32_t backend, int32_t workers, int32_t isa) {
    char text[256] = "before";
    fth_context* ctx = kGarbage;
    status = fth_context_create(backend, workers, isa, text, sizeof text, &ctx);
    message = text;
    EXPECT(ctx != kGarbage && (ctx != nullptr) == (status == FTH_OK));
    if (status == FTH_OK) EXPECT(fth_context_info(ctx, &info) == FTH_OK && message.empty(), "%s", text);
    fth_context_destroy(ctx);
  }
};

void expect_refused(const Created& c, fth_status status, const char* sentence) {
  EXPECT(c.status == status && c.message == sentence, "%s, got %d: %s", sentence, c.status, c.message.c_str());
}

// FATHOM_ISA for as long as this lives; null: unset.
class Variable {
 public:
  explicit Variable(const char* value) {
    const char* const before = getenv("FATHOM_ISA");
    was_set_ = before != nullptr;
    if (was_set_) before_ = before;
    set(value);
  }
  ~Variable() { set(was_set_ ? before_.c_str() : nullptr); }

 private:
  static void set(const char* value) {
    if (value == nullptr) unsetenv("FATHOM_ISA");
    else setenv("FATHOM_ISA", value, 1);
  }
  bool was_set_;
  std::string before_;
};

int32_t lower(int32_t isa) { return isa < fth_isa_best() ? isa : fth_isa_best(); }

// A call that takes a while: the norm of many rows, in pieces for all workers.
struct Work {
  static constexpr int32_t kWidth = 512;
  static constexpr int64_t kCount = 2000;
  Guarded<float> x{kCount * kWidth}, y{kCount * kWidth};
  fth_norm_shape shape{FTH_RMS_NORM, kWidth, 1, 1e-5f};

  Work() {
    test::Random random(1);
    random.fill(x, x.size());
  }
  fth_status run(fth_context* ctx) {
    memset(y, 0, size_t(y.size()) * 4);
    return fth_norm(ctx, &shape, kCount, nullptr, x, nullptr, nullptr, y);
  }
};

}  // namespace

TEST(tells_what_it_is) {
  const Variable unset(nullptr);
  for (int32_t workers : {1, 3, 16}) {
    const Created c(FTH_CPU, workers, FTH_ISA_AUTO);
    EXPECT(c.status == FTH_OK, "%s", c.message.c_str());
    EXPECT(c.info.backend == FTH_CPU && c.info.workers == workers);
    EXPECT(c.info.isa == fth_isa_best() && c.info.best_isa == fth_isa_best());
    EXPECT(c.info.l2_bytes >= 0 && c.info.l3_bytes >= 0);
  }
  EXPECT(Created(FTH_CPU, 0, FTH_ISA_AUTO).info.workers >= 1);
  for (int32_t isa = FTH_ISA_SCALAR; isa <= FTH_ISA_AVX512; isa++) {
    const Created c(FTH_CPU, 1, isa);
    EXPECT(c.info.isa == lower(isa) && c.info.best_isa == fth_isa_best(), "isa %d", isa);
    EXPECT(!c.info.bf16_dot || c.info.isa == FTH_ISA_AVX512, "isa %d", isa);
  }
  EXPECT(strcmp(fth_isa_name(FTH_ISA_SCALAR), "scalar") == 0 && strcmp(fth_isa_name(FTH_ISA_AVX2), "avx2") == 0 &&
         strcmp(fth_isa_name(FTH_ISA_AVX512), "avx512") == 0);
  for (int32_t isa : {-1, 3, INT32_MAX}) EXPECT(strcmp(fth_isa_name(isa), "unknown") == 0);
  EXPECT(fth_abi() == FTH_ABI);

  test::Arguments a;
  const auto out = a.output<fth_info>("out", 1);
  a.call = [&](fth_context* ctx) { return fth_context_info(ctx, out); };
  a.guards();
  a.refusals();
}

TEST(an_environment_variable_caps_the_instruction_set) {
  for (int32_t isa = FTH_ISA_SCALAR; isa <= FTH_ISA_AVX512; isa++) {
    const Variable named(fth_isa_name(isa));
    EXPECT(Created(FTH_CPU, 1, FTH_ISA_AUTO).info.isa == lower(isa), "isa %d", isa);
    for (int32_t asked = FTH_ISA_SCALAR; asked <= FTH_ISA_AVX512; asked++)  // who asks for one is not capped
      EXPECT(Created(FTH_CPU, 1, asked).info.isa == lower(asked), "%d with isa %d", asked, isa);
  }
  for (const char* nothing : {static_cast<const char*>(nullptr), ""}) {
    const Variable empty(nothing);
    EXPECT(Created(FTH_CPU, 1, FTH_ISA_AUTO).info.isa == fth_isa_best());
  }
  for (const std::string name : {"AVX2", "avx", "avx512 ", "unknown", "1"}) {
    const Variable wrong(name.c_str());
    const std::string sentence = "FATHOM_ISA must be scalar, avx2 or avx512, got \"" + name + "\"";
    expect_refused(Created(FTH_CPU, 1, FTH_ISA_AUTO), FTH_INVALID_ARGUMENT, sentence.c_str());
    EXPECT(Created(FTH_CPU, 1, FTH_ISA_SCALAR).status == FTH_OK);
  }
  const Variable endless(std::string(10000, 'x').c_str());
  const std::string sentence = "FATHOM_ISA must be scalar, avx2 or avx512, got \"" + std::string(64, 'x') + "\"";
  expect_refused(Created(FTH_CPU, 1, FTH_ISA_AUTO), FTH_INVALID_ARGUMENT, sentence.c_str());
}

TEST(refuses_to_be_created) {
  for (int32_t backend : {-1, 2}) {
    const std::string sentence = "backend must be 0 (CPU) or 1 (CUDA), got " + std::to_string(backend);
    expect_refused(Created(backend, 1, FTH_ISA_AUTO), FTH_INVALID_ARGUMENT, sentence.c_str());
  }
  for (int32_t workers : {-1, 1025, INT32_MIN, INT32_MAX}) {
    const std::string sentence = "workers must be in 0..1024, got " + std::to_string(workers);
    expect_refused(Created(FTH_CPU, workers, FTH_ISA_AUTO), FTH_INVALID_ARGUMENT, sentence.c_str());
  }
  for (int32_t isa : {-2, 3}) {
    const std::string sentence = "isa must be in -1..2, got " + std::to_string(isa);
    expect_refused(Created(FTH_CPU, 1, isa), FTH_INVALID_ARGUMENT, sentence.c_str());
  }
  const Created cuda(FTH_CUDA, 0, FTH_ISA_AUTO);
  EXPECT(cuda.status == FTH_UNSUPPORTED && cuda.message.find("CUDA") != std::string::npos &&
             cuda.message.find("use a CPU context") != std::string::npos,
         "%d: %s", cuda.status, cuda.message.c_str());
  EXPECT(fth_cuda_device_count() >= 0);

  char text[64];
  EXPECT(fth_context_create(FTH_CPU, 1, FTH_ISA_AUTO, text, sizeof text, nullptr) == FTH_INVALID_ARGUMENT);
  EXPECT(strcmp(text, "out must not be null") == 0, "%s", text);
}

TEST(a_message_needs_no_room) {
  const char* const sentence = "workers must be in 0..1024, got -1";
  Guarded<char> text(64);
  for (int64_t bytes : {int64_t(-1), int64_t(0), int64_t(1), int64_t(8), int64_t(strlen(sentence)), int64_t(64)}) {
    fth_context* ctx = kGarbage;
    char* const at = text + 64 - (bytes < 0 ? 0 : bytes);  // ends where an inaccessible page begins
    EXPECT(fth_context_create(FTH_CPU, -1, FTH_ISA_AUTO, at, bytes, &ctx) == FTH_INVALID_ARGUMENT && ctx == nullptr);
    if (bytes > 0) EXPECT(strcmp(at, std::string(sentence).substr(0, size_t(bytes) - 1).c_str()) == 0, "%s", at);
  }
  fth_context* ctx = kGarbage;
  EXPECT(fth_context_create(FTH_CPU, -1, FTH_ISA_AUTO, nullptr, 100, &ctx) == FTH_INVALID_ARGUMENT && ctx == nullptr);
  EXPECT(fth_context_create(FTH_CPU, 1, FTH_ISA_AUTO, nullptr, 0, &ctx) == FTH_OK && ctx != nullptr);
  EXPECT(strcmp(fth_context_message(ctx), "") == 0);
  fth_context_destroy(ctx);
}

TEST(calls_without_a_context_are_refused) {
  EXPECT(fth_synchronize(nullptr) == FTH_INVALID_ARGUMENT);
  EXPECT(fth_nop(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) == FTH_INVALID_ARGUMENT);
  EXPECT(strcmp(fth_context_message(nullptr), "") == 0);
  fth_context_destroy(nullptr);
  test::Context ctx;
  EXPECT_OK(ctx, fth_synchronize(ctx));
  EXPECT_OK(ctx, fth_nop(ctx, nullptr, nullptr, nullptr, nullptr, nullptr));
}

// The sentence of a failed call stays until the next one.
TEST(keeps_the_last_message) {
  test::Context ctx;
  Work work;
  EXPECT(fth_norm(ctx, nullptr, 1, nullptr, nullptr, nullptr, nullptr, nullptr) == FTH_INVALID_ARGUMENT);
  EXPECT(strcmp(ctx.message(), "shape must not be null") == 0, "%s", ctx.message());
  EXPECT(fth_nop(ctx, nullptr, nullptr, nullptr, nullptr, nullptr) == FTH_OK && ctx.message()[0] != 0);
  EXPECT_OK(ctx, work.run(ctx));
  EXPECT(ctx.message()[0] == 0, "%s", ctx.message());
}

// A call on a context where another thread's call is running returns at once.
TEST(runs_one_call_at_a_time) {
  test::Context ctx(FTH_ISA_AUTO, 2);
  struct Other {
    fth_context* ctx;
    Work work;
    std::atomic<bool> stop{false};
    static void* main(void* argument) {
      Other* self = static_cast<Other*>(argument);
      while (!self->stop) self->work.run(self->ctx);
      return nullptr;
    }
  } other{ctx, {}};
  pthread_t thread;
  EXPECT(pthread_create(&thread, nullptr, Other::main, &other) == 0);
  fth_status status = FTH_OK;
  for (int64_t i = 0; i < 100000000 && status == FTH_OK; i++) status = fth_synchronize(ctx);
  EXPECT(status == FTH_BUSY, "%d", status);
  other.stop = true;
  pthread_join(thread, nullptr);
  EXPECT_OK(ctx, fth_synchronize(ctx));
}

// The addresses are never read: memory for the angles is asked for before.
TEST(scratch_that_cannot_be_had) {
  test::Context ctx;
  const fth_rope_shape shape{FTH_ROPE_HALF, 1, 1 << 24, 1 << 24};
  const auto* const rows = reinterpret_cast<const fth_row*>(uintptr_t(1) << 12);
  const auto* const frequency = reinterpret_cast<const float*>(uintptr_t(1) << 12);
  EXPECT(fth_rope(ctx, &shape, 1 << 30, rows, frequency, reinterpret_cast<float*>(uintptr_t(1) << 46)) ==
         FTH_OUT_OF_MEMORY);
  EXPECT(strncmp(ctx.message(), "scratch of ", 11) == 0, "%s", ctx.message());
  EXPECT(strstr(ctx.message(), " bytes could not be allocated"), "%s", ctx.message());
  Work work;
  EXPECT_OK(ctx, work.run(ctx));
}

namespace {

// Whether `body` is true in a child process, within a minute.
template <class F>
bool in_a_child(F body) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const bool good = body();
    fflush(stdout);
    _exit(good ? 0 : 1);
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

// Its workers stayed in the parent.
TEST(a_child_process_runs_its_calls_alone) {
  fth_context* ctx = nullptr;
  EXPECT(fth_context_create(FTH_CPU, 4, FTH_ISA_AUTO, nullptr, 0, &ctx) == FTH_OK);
  Work work;
  EXPECT(work.run(ctx) == FTH_OK);
  Guarded<float> want(work.y.size());
  want.copy_from(work.y);
  const auto same = [&] {
    return work.run(ctx) == FTH_OK && memcmp(work.y, want, size_t(want.size()) * sizeof(float)) == 0;
  };
  EXPECT(in_a_child([&] {
    const bool twice = same() && same();
    fth_context_destroy(ctx);
    return twice;
  }));
  EXPECT(in_a_child([&] {  // one that never ran there
    fth_context_destroy(ctx);
    return fth_context_create(FTH_CPU, 3, FTH_ISA_AUTO, nullptr, 0, &ctx) == FTH_OK && same();
  }));
  ctx->busy = true;  // as if another thread were in a call
  EXPECT(in_a_child([&] { return work.run(ctx) == FTH_BUSY; }));
  ctx->busy = false;
  EXPECT(same());
  fth_context_destroy(ctx);
}

TEST(workers_that_cannot_be_started) {
  if (kAddressSanitizer) return;  // it cannot live with so little
  EXPECT(in_a_child([] {
    const rlimit limit{rlim_t(1) << 30, rlim_t(1) << 30};  // a thread's stack takes 8 MiB of addresses
    if (setrlimit(RLIMIT_AS, &limit) != 0) return false;
    const Created c(FTH_CPU, 1024, FTH_ISA_AUTO);
    expect_refused(c, FTH_OUT_OF_MEMORY, "1024 worker threads could not be started");
    return test::failures() == 0;
  }));
}

TEST(maps_zeroed_memory_in_huge_pages) {
  for (int64_t bytes : {int64_t(1), int64_t(4096), int64_t(5) << 20}) {
    void* memory = nullptr;
    EXPECT(fth_memory_map(FTH_MEMORY_HOST, 0, bytes, &memory) == FTH_OK && memory != nullptr);
    EXPECT(reinterpret_cast<uintptr_t>(memory) % (2 << 20) == 0);
    char* const at = static_cast<char*>(memory);
    EXPECT(at[0] == 0 && at[bytes - 1] == 0);
    at[0] = at[bytes - 1] = 1;
    fth_memory_unmap(FTH_MEMORY_HOST, 0, nullptr, bytes);
    fth_memory_unmap(FTH_MEMORY_HOST, 0, memory, 0);
    EXPECT(at[0] == 1);
    fth_memory_unmap(FTH_MEMORY_HOST, 0, memory, bytes);
    unsigned char resident;
    errno = 0;
    for (int64_t page : {int64_t(0), (bytes - 1) / 4096})
      EXPECT(mincore(at + page * 4096, 1, &resident) == -1 && errno == ENOMEM, "page %lld", (long long)page);
  }
  for (int64_t bytes : {int64_t(0), int64_t(-1), INT64_MIN, (int64_t(1) << 46) + 1, INT64_MAX}) {
    void* memory = kGarbage;
    EXPECT(fth_memory_map(FTH_MEMORY_HOST, 0, bytes, &memory) == FTH_INVALID_ARGUMENT && memory == nullptr, "%lld", (long long)bytes);
  }
  EXPECT(fth_memory_map(FTH_MEMORY_HOST, 0, 4096, nullptr) == FTH_INVALID_ARGUMENT);
  void* memory = kGarbage;
  const fth_status status = fth_memory_map(FTH_MEMORY_HOST, 0, int64_t(1) << 46, &memory);  // 64 TiB: some systems promise them
  EXPECT(status == FTH_OK ? memory != nullptr : status == FTH_OUT_OF_MEMORY && memory == nullptr, "%d", status);
  if (status == FTH_OK) fth_memory_unmap(FTH_MEMORY_HOST, 0, memory, int64_t(1) << 46);
}
