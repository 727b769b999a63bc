#include "context.h"

#include <math.h>
#include <new>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"

namespace {

constexpr size_t kHugePage = size_t(2) << 20;

// Null or empty buffers never overlap.
inline bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const uintptr_t x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return x < y + uintptr_t(b_bytes) && y < x + uintptr_t(a_bytes) && a != nullptr && b != nullptr && a_bytes > 0 &&
         b_bytes > 0;
}

}  // namespace

fth_status fth_context::fail(fth_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

char* fth_context::reserve(size_t bytes) {
  if (bytes <= scratch_bytes) return scratch;
  const size_t wanted = fth::grown_scratch(bytes);
  void* fresh = nullptr;
  if (posix_memalign(&fresh, kHugePage, wanted) != 0) {
    fail(FTH_OUT_OF_MEMORY, "scratch of %zu bytes could not be allocated", wanted);
    return nullptr;
  }
  madvise(fresh, wanted, MADV_HUGEPAGE);
  free(scratch);
  scratch = static_cast<char*>(fresh);
  scratch_bytes = wanted;
  return scratch;
}

char* fth_context::reserve_device(size_t bytes) {
  if (!FTH_ON_DEVICE(this)) return reserve(bytes);
  char* p = device->reserve(bytes);
  if (p == nullptr)
    fail(FTH_OUT_OF_MEMORY, "%zu bytes of scratch on the device could not be had%s", bytes,
         fth::gpu::capturing(device->stream()) ? " while the stream is being captured; call fth_reserve before" : "");
  return p;
}

namespace fth {

bool reserve(fth_context* ctx, const Layout& host, const Layout& kernels, Scratch* out) {
  // On the CPU both are one allocation, so that the second does not invalidate the first.
  const bool apart = FTH_ON_DEVICE(ctx);
  out->host = ctx->reserve(apart ? host.bytes() : host.bytes() + kernels.bytes());
  out->kernels = apart ? ctx->reserve_device(kernels.bytes()) : out->host + host.bytes();
  return out->kernels != nullptr && (out->host != nullptr || host.bytes() == 0);
}

fth_status stage(fth_context* ctx, std::initializer_list<Device::Array> arrays) {
  if (!FTH_ON_DEVICE(ctx)) return FTH_OK;
  char why[256];
  if (ctx->device->stage(arrays.begin(), int(arrays.size()), why, sizeof why)) return FTH_OK;
  return ctx->fail(gpu::capturing(ctx->device->stream()) ? FTH_INVALID_ARGUMENT : FTH_OUT_OF_MEMORY, "%s", why);
}

fth_status finish(fth_context* ctx) {
  if (!FTH_ON_DEVICE(ctx)) return FTH_OK;
  const char* error = gpu::take_error();
  return error == nullptr ? FTH_OK : ctx->fail(FTH_DEVICE_ERROR, "CUDA device %d: %s", ctx->device->ordinal(), error);
}

bool Check::that(bool condition, const char* format, ...) {
  if (condition || !ok()) return condition;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(ctx_->message, sizeof ctx_->message, format, arguments);
  va_end(arguments);
  status_ = FTH_INVALID_ARGUMENT;
  return false;
}

bool Check::at_least(const char* name, int64_t value, int64_t least) {
  return that(value >= least, "%s must be at least %lld, got %lld", name, (long long)least, (long long)value);
}

bool Check::range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return true;  // without the cost of a call with variable arguments
  return that(false, "%s must be in %lld..%lld, got %lld", name, (long long)least, (long long)most, (long long)value);
}

bool Check::finite(const char* name, float value) {
  return that(isfinite(value), "%s must be a finite number, got %g", name, double(value));
}

bool Check::pointer(const char* name, const void* p, size_t alignment, bool required) {
  if (p == nullptr ? !required : (reinterpret_cast<uintptr_t>(p) & (alignment - 1)) == 0) return true;
  if (p == nullptr) return that(false, "%s must not be null", name);
  return that(false, "%s must be aligned to %zu bytes, got address %p", name, alignment, p);
}

bool Check::disjoint(const char* a_name, const void* a, int64_t a_bytes, const char* b_name, const void* b,
                     int64_t b_bytes) {
  return !overlap(a, a_bytes, b, b_bytes) || that(false, "%s and %s must not overlap", a_name, b_name);
}

bool Check::disjoint(std::initializer_list<Span> inputs, std::initializer_list<Span> outputs) {
  const auto both = [this](const Span& a, const Span& b) {
    if (overlap(a.p, a.bytes, b.p, b.bytes)) that(false, "%s and %s must not overlap", a.name, b.name);
  };
  for (const Span& out : outputs) {
    for (const Span& in : inputs) both(in, out);
    for (const Span* other = outputs.begin(); other != &out; other++) both(*other, out);
  }
  return ok();
}

bool Check::on_device(std::initializer_list<Operand> operands) {
  if (!FTH_ON_DEVICE(ctx_)) return ok();
  for (const Operand& o : operands)
    if (o.p != nullptr && !ctx_->device->device_reaches(o.p))
      return that(false, "%s must be memory that CUDA device %d reaches, got address %p of the host", o.name,
                  ctx_->device->ordinal(), o.p);
  return ok();
}

bool Check::on_host(std::initializer_list<Operand> operands) {
  if (!FTH_ON_DEVICE(ctx_)) return ok();
  for (const Operand& o : operands)
    if (o.p != nullptr && !ctx_->device->host_reads(o.p))
      return that(false, "%s must be memory that the host reads, got address %p of a device", o.name, o.p);
  return ok();
}

bool Check::depths(const fth_row* rows, int64_t count, int32_t depths) {
  if (!ok()) return false;
  for (int64_t i = 0; i < count; i++)
    if (rows[i].depth < 0 || rows[i].depth >= depths)
      return that(false, "rows[%lld].depth must be in 0..%d, got %d", (long long)i, depths - 1, rows[i].depth);
  return true;
}

bool Check::indices(const char* name, const int32_t* index, int64_t count, int64_t limit) {
  if (!ok()) return false;
  for (int64_t i = 0; i < count; i++)
    if (index[i] < 0 || index[i] >= limit)
      return that(false, "%s[%lld] must be in 0..%lld, got %d", name, (long long)i, (long long)limit - 1, index[i]);
  return true;
}

}  // namespace fth

namespace {

// Decides the instruction set from the argument and FATHOM_ISA; -2 for an unknown name.
int32_t choose_isa(int32_t cap, const char* name) {
  const int32_t best = fth::best_isa();
  if (cap == FTH_ISA_AUTO) {
    if (name == nullptr || name[0] == 0) return best;
    cap = -2;
    for (int32_t isa = FTH_ISA_SCALAR; isa <= FTH_ISA_AVX512; isa++)
      if (strcmp(name, fth_isa_name(isa)) == 0) cap = isa;
    if (cap == -2) return -2;
  }
  return cap < best ? cap : best;
}

// A context with its workers; null without memory.
fth_context* new_context(int workers) {
  void* memory = nullptr;
  if (posix_memalign(&memory, alignof(fth_context), sizeof(fth_context)) != 0) return nullptr;
  fth_context* ctx = new (memory) fth_context();
  ctx->message[0] = 0;
  if (ctx->pool.start(workers)) return ctx;
  free(ctx);
  return nullptr;
}

}  // namespace

extern "C" {

int32_t fth_abi(void) { return FTH_ABI; }
int32_t fth_isa_best(void) { return fth::best_isa(); }

const char* fth_isa_name(int32_t isa) {
  switch (isa) {
    case FTH_ISA_SCALAR: return "scalar";
    case FTH_ISA_AVX2: return "avx2";
    case FTH_ISA_AVX512: return "avx512";
    default: return "unknown";
  }
}

int32_t fth_cuda_device_count(void) {
  char why[160];
  return fth::gpu::device_count(why, sizeof why);
}

fth_status fth_context_create(int32_t backend, int32_t workers_or_device, int32_t isa, char* message,
                              int64_t message_bytes, fth_context** out) {
  const size_t room = message == nullptr || message_bytes < 0 ? 0 : size_t(message_bytes < 4096 ? message_bytes : 4096);
  const auto refuse = [&](fth_status status, const char* format, auto... values) {
    if (room > 0) snprintf(message, room, format, values...);
    return status;
  };
  if (room > 0) message[0] = 0;
  if (out == nullptr) return refuse(FTH_INVALID_ARGUMENT, "%s", "out must not be null");
  *out = nullptr;
  if (backend == FTH_CUDA) {
    char why[160];
    bool out_of_memory;
    fth::Device* device = fth::Device::open(workers_or_device, why, sizeof why, &out_of_memory);
    if (device == nullptr)
      return out_of_memory ? refuse(FTH_OUT_OF_MEMORY, "%s", why)
                           : refuse(FTH_UNSUPPORTED, "%s; use a CPU context", why);
    fth_context* ctx = new_context(1);
    if (ctx == nullptr) {
      device->close();
      return refuse(FTH_OUT_OF_MEMORY, "%s", "no memory for the context");
    }
    const fth::gpu::Properties& p = device->properties();
    ctx->device = device;
    ctx->info = {FTH_CUDA, FTH_ISA_SCALAR, fth::best_isa(), 1, 1, 1, p.l2_bytes, 0,
                 device->ordinal(), p.multiprocessors, p.compute_capability, 0, p.memory_bytes};
    *out = ctx;
    return FTH_OK;
  }
  if (backend != FTH_CPU)
    return refuse(FTH_INVALID_ARGUMENT, "backend must be 0 (CPU) or 1 (CUDA), got %d", backend);
  constexpr int kMostWorkers = 1024;
  if (workers_or_device < 0 || workers_or_device > kMostWorkers)
    return refuse(FTH_INVALID_ARGUMENT, "workers must be in 0..%d, got %d", kMostWorkers, workers_or_device);
  if (isa < FTH_ISA_AUTO || isa > FTH_ISA_AVX512)
    return refuse(FTH_INVALID_ARGUMENT, "isa must be in -1..2, got %d", isa);
  const char* name = getenv("FATHOM_ISA");
  const int32_t chosen = choose_isa(isa, name);
  if (chosen == -2)
    return refuse(FTH_INVALID_ARGUMENT, "FATHOM_ISA must be scalar, avx2 or avx512, got \"%.64s\"", name);

  const int workers = workers_or_device > 0 ? workers_or_device : fth::usable_cores();
  fth_context* ctx = new_context(workers);
  if (ctx == nullptr) return refuse(FTH_OUT_OF_MEMORY, "%d worker threads could not be started", workers);
  ctx->info = {FTH_CPU, chosen, fth::best_isa(), chosen == FTH_ISA_AVX512 && fth::has_bf16_dot(), workers,
               fth::has_int8_dot(chosen), fth::l2_bytes(), fth::l3_bytes(), -1, 0, 0, 0, 0};
  *out = ctx;
  return FTH_OK;
}

void fth_context_destroy(fth_context* ctx) {
  if (ctx == nullptr) return;
  ctx->pool.stop();
  if (FTH_ON_DEVICE(ctx)) ctx->device->close();
  free(ctx->scratch);
  free(ctx);
}

const char* fth_context_message(const fth_context* ctx) { return ctx == nullptr ? "" : ctx->message; }

fth_status fth_context_info(fth_context* ctx, fth_info* out) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.array("out", out)) return check.status();
  *out = ctx->info;
  return FTH_OK;
}

fth_status fth_synchronize(fth_context* ctx) {
  FTH_ENTER(ctx);
  if (FTH_ON_DEVICE(ctx)) fth::gpu::synchronize(ctx->device->stream());
  return fth::finish(ctx);
}

fth_status fth_use_stream(fth_context* ctx, void* stream) {
  FTH_ENTER(ctx);
  if (!FTH_ON_DEVICE(ctx)) return ctx->fail(FTH_UNSUPPORTED, "a CPU context has no stream");
  ctx->device->use_stream(stream);
  return fth::finish(ctx);
}

fth_status fth_reserve(fth_context* ctx, int64_t bytes) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!check.range("bytes", bytes, 0, int64_t(1) << 46)) return check.status();
  if (FTH_ON_DEVICE(ctx)) ctx->device->workspace();
  return bytes == 0 || ctx->reserve_device(size_t(bytes)) != nullptr ? FTH_OK : FTH_OUT_OF_MEMORY;
}

fth_status fth_nop(fth_context* ctx, const void*, const void*, const void*, const void*, void*) {
  return ctx == nullptr ? FTH_INVALID_ARGUMENT : FTH_OK;
}

fth_status fth_memory_map(int32_t kind, int32_t device, int64_t bytes, void** out) {
  if (out == nullptr) return FTH_INVALID_ARGUMENT;
  *out = nullptr;
  if (bytes <= 0 || bytes > (int64_t(1) << 46)) return FTH_INVALID_ARGUMENT;
  if (kind == FTH_MEMORY_PINNED || kind == FTH_MEMORY_DEVICE) {
    if (device < 0 || device >= fth_cuda_device_count()) return FTH_UNSUPPORTED;
    const int32_t before = fth::gpu::use_device(device);
    *out = kind == FTH_MEMORY_DEVICE ? fth::gpu::allocate(size_t(bytes)) : fth::gpu::allocate_pinned(size_t(bytes));
    fth::gpu::use_device(before);
    return *out == nullptr ? FTH_OUT_OF_MEMORY : FTH_OK;
  }
  if (kind != FTH_MEMORY_HOST) return FTH_INVALID_ARGUMENT;
  // One huge page more than asked for, so that an aligned start can be cut out.
  const size_t wanted = size_t(fth::round_up(bytes, 4096)), total = wanted + kHugePage;
  char* mapped = static_cast<char*>(mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (mapped == MAP_FAILED) return FTH_OUT_OF_MEMORY;
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(mapped) % kHugePage) % kHugePage;
  if (skip > 0) munmap(mapped, skip);
  if (skip < kHugePage) munmap(mapped + skip + wanted, kHugePage - skip);
  madvise(mapped + skip, wanted, MADV_HUGEPAGE);
  *out = mapped + skip;
  return FTH_OK;
}

void fth_memory_unmap(int32_t kind, int32_t device, void* memory, int64_t bytes) {
  if (memory == nullptr || bytes <= 0) return;
  if (kind == FTH_MEMORY_HOST) munmap(memory, size_t(fth::round_up(bytes, 4096)));
  if (kind != FTH_MEMORY_PINNED && kind != FTH_MEMORY_DEVICE) return;
  const int32_t before = fth::gpu::use_device(device);
  if (kind == FTH_MEMORY_DEVICE) fth::gpu::release(memory);
  else fth::gpu::release_pinned(memory);
  fth::gpu::use_device(before);
}

fth_status fth_copy(fth_context* ctx, int64_t bytes, const void* from, void* to) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  check.range("bytes", bytes, 0, int64_t(1) << 46);
  check.pointer("from", from, 1, bytes > 0);
  check.pointer("to", to, 1, bytes > 0);
  check.disjoint("from", from, bytes, "to", to, bytes);
  if (!check.ok() || bytes == 0) return check.status();
  if (!FTH_ON_DEVICE(ctx)) {
    memcpy(to, from, size_t(bytes));
    return FTH_OK;
  }
  fth::gpu::copy(to, from, size_t(bytes), ctx->device->stream());
  if (ctx->device->host_reads(from) || ctx->device->host_reads(to)) fth::gpu::synchronize(ctx->device->stream());
  return fth::finish(ctx);
}

fth_status fth_clear(fth_context* ctx, int64_t bytes, void* memory) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  check.range("bytes", bytes, 0, int64_t(1) << 46);
  check.pointer("memory", memory, 1, bytes > 0);
  check.on_device({{"memory", memory}});
  if (!check.ok() || bytes == 0) return check.status();
  if (FTH_ON_DEVICE(ctx)) fth::gpu::clear(memory, size_t(bytes), ctx->device->stream());
  else memset(memory, 0, size_t(bytes));
  return fth::finish(ctx);
}

}  // extern "C"
