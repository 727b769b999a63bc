// What every operation shares: the context, argument checks, scratch, choice of instruction set, parallel loops.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "device.h"
#include "fathom/fathom.h"
#include "pool.h"

namespace fth {

// Limits of what a call may ask for; products of them do not overflow 64 bits.
constexpr int64_t kMostFeatures = int64_t(1) << 24;
constexpr int64_t kMostRows = int64_t(1) << 30;

// Offsets of temporaries in one scratch allocation, each 64-byte aligned.
class Layout {
 public:
  template <class T>
  size_t add(int64_t count) {
    const size_t at = bytes_;
    bytes_ += (sizeof(T) * size_t(count) + 63) / 64 * 64;
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace fth

struct fth_context {
  fth_info info;
  fth::Pool pool;
  fth::Device* device = nullptr;  // of a CUDA context
  char* scratch = nullptr;
  size_t scratch_bytes = 0;
  std::atomic<bool> busy{false};
  char message[512];

  // Records a sentence and returns the status.
  fth_status fail(fth_status status, const char* format, ...) __attribute__((format(printf, 3, 4)));
  // At least `bytes` of scratch, 64-byte aligned, or null with the message set. Earlier scratch becomes invalid.
  char* reserve(size_t bytes);
  // The same where kernels run: on a CPU context it is the scratch above.
  char* reserve_device(size_t bytes);
};

namespace fth {

// Whether kernels of this context run on a device; a constant in builds without CUDA.
#define FTH_ON_DEVICE(ctx) (FATHOM_WITH_CUDA && (ctx)->device != nullptr)

// Marks the context as in use, and its device as current, for the length of one call.
class Call {
 public:
  explicit Call(fth_context* ctx) : ctx_(ctx), entered_(!ctx->busy.exchange(true, std::memory_order_acquire)) {
    if (!entered_) return;
    ctx_->message[0] = 0;
    if (FTH_ON_DEVICE(ctx_)) device_before_ = gpu::use_device(ctx_->device->ordinal());
  }
  ~Call() {
    if (!entered_) return;
    if (FTH_ON_DEVICE(ctx_)) gpu::use_device(device_before_);
    ctx_->busy.store(false, std::memory_order_release);
  }
  bool entered() const { return entered_; }

 private:
  fth_context* ctx_;
  bool entered_;
  int32_t device_before_ = 0;
};

// First lines of every operation: a null context has nowhere to put a message.
#define FTH_ENTER(ctx)                               \
  if ((ctx) == nullptr) return FTH_INVALID_ARGUMENT; \
  fth::Call call(ctx);                               \
  if (!call.entered()) return FTH_BUSY

// Argument checks of one call. The first failure is kept with a sentence, later ones are ignored; the caller asks
// ok() once before it touches memory.
class Check {
 public:
  explicit Check(fth_context* ctx) : ctx_(ctx) {}
  bool ok() const { return status_ == FTH_OK; }
  fth_status status() const { return status_; }
  const fth_context* context() const { return ctx_; }

  bool that(bool condition, const char* format, ...) __attribute__((format(printf, 3, 4)));
  bool at_least(const char* name, int64_t value, int64_t least);
  bool range(const char* name, int64_t value, int64_t least, int64_t most);
  bool finite(const char* name, float value);
  // Not null and aligned for its element; `required` false allows null.
  bool pointer(const char* name, const void* p, size_t alignment, bool required = true);
  template <class T>
  bool array(const char* name, const T* p, bool required = true) { return pointer(name, p, alignof(T), required); }
  // Two buffers share no byte. Null or empty ones never overlap.
  bool disjoint(const char* a_name, const void* a, int64_t a_bytes, const char* b_name, const void* b, int64_t b_bytes);
  struct Span {
    const char* name;
    const void* p;
    int64_t bytes;
  };
  // No output shares a byte with an input or another output.
  bool disjoint(std::initializer_list<Span> inputs, std::initializer_list<Span> outputs);
  // What kernels read and write must be memory that the context's device reaches; what the library looks at before a
  // launch, memory that the host reads. A CPU context asks nothing. Null passes.
  struct Operand {
    const char* name;
    const void* p;
  };
  bool on_device(std::initializer_list<Operand> operands);
  bool on_host(std::initializer_list<Operand> operands);
  // Every rows[i].depth is in [0, depths).
  bool depths(const fth_row* rows, int64_t count, int32_t depths);
  // Every index[i] is in [0, limit).
  bool indices(const char* name, const int32_t* index, int64_t count, int64_t limit);

 private:
  fth_context* ctx_;
  fth_status status_ = FTH_OK;
};

// Scratch of a call in two parts: words that the host works on, and temporaries of kernels.
struct Scratch {
  char* host;
  char* kernels;
};
// False without memory, with the message set.
bool reserve(fth_context* ctx, const Layout& host, const Layout& kernels, Scratch* out);

// An array that the host has checked, for stage().
template <class T>
Device::Array staged(const char* name, const T*& p, int64_t count) {
  return {name, reinterpret_cast<const void**>(&p), sizeof(T) * size_t(count)};
}
// Replaces pointers to arrays that the host has checked by those that kernels of this call read. Nothing happens on a
// CPU context. Any other result than FTH_OK is the call's.
fth_status stage(fth_context* ctx, std::initializer_list<Device::Array> arrays);
// The result of a call whose work is enqueued.
fth_status finish(fth_context* ctx);

// The variant of a kernel that this context runs.
template <class F>
F* for_isa(const fth_context* ctx, F* scalar, F* avx2, F* avx512) {
  return ctx->info.isa == FTH_ISA_AVX512 ? avx512 : ctx->info.isa == FTH_ISA_AVX2 ? avx2 : scalar;
}

// body(begin, end, worker) over [0, items) in pieces of at most `grain`.
template <class F>
void parallel(fth_context* ctx, int64_t items, int64_t grain, F body) {
  ctx->pool.run(items, grain < 1 ? 1 : grain,
                [](void* closure, int64_t begin, int64_t end, int worker) {
                  (*static_cast<F*>(closure))(begin, end, worker);
                },
                &body);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace fth
