// A CUDA runtime for kernels that run on the CPU (simt.h): one device, whose memory is the heap and whose streams are
// empty at the end of every launch, unless they are being captured. FATHOM_EMULATED_PAGEABLE=0 makes it a device that
// reaches only its own and pinned memory, as most do, FATHOM_EMULATED_CAPABILITY=80 one of that compute capability
// rather than 90.
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <mutex>

#include "simt.h"

namespace fth::gpu {
namespace {

struct Memory {
  size_t bytes;
  Reach reach;
};
std::recursive_mutex mutex;  // a map that grows may ask for memory itself
std::map<uintptr_t, Memory>& memories() {
  static auto& all = *new std::map<uintptr_t, Memory>;
  return all;
}

// What a capture does not allow.
void must_not_capture(const char* what) {
  if (!simt::capturing()) return;
  fprintf(stderr, "emulated runtime: %s\n", what);
  _Exit(99);
}

void* allocate(size_t bytes, Reach reach) {
  must_not_capture("memory is asked for while a stream is being captured");
  if (bytes > size_t(1) << 40) return nullptr;
  void* p = mmap(nullptr, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  memories()[uintptr_t(p)] = {bytes, reach};
  return p;
}
void forget(void* p) {
  must_not_capture("memory is given back while a stream is being captured");
  std::lock_guard<std::recursive_mutex> lock(mutex);
  munmap(p, memories()[uintptr_t(p)].bytes + 1);
  memories().erase(uintptr_t(p));
}

int stream, event;  // their addresses are the handles

}  // namespace

int32_t device_count(char*, size_t) { return 1; }
bool properties(int32_t device, Properties* out) {
  const char* pageable = getenv("FATHOM_EMULATED_PAGEABLE");
  const char* capability = getenv("FATHOM_EMULATED_CAPABILITY");
  *out = {4, capability == nullptr ? 90 : atoi(capability), 50 << 20, int64_t(8) << 30,
          pageable == nullptr || strcmp(pageable, "0") != 0};
  return device == 0;
}
int32_t use_device(int32_t) { return 0; }
void* allocate(size_t bytes) { return allocate(bytes, Reach::device); }
void release(void* memory) { forget(memory); }
void* allocate_pinned(size_t bytes) { return allocate(bytes, Reach::both); }
void release_pinned(void* memory) { forget(memory); }
Reach reach(const void* p) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  auto after = memories().upper_bound(uintptr_t(p));
  if (after == memories().begin()) return Reach::host;
  const auto& [first, memory] = *--after;
  return uintptr_t(p) - first < memory.bytes ? memory.reach : Reach::host;
}
void copy(void* to, const void* from, size_t bytes, Stream) {
  simt::enqueue([=] { memmove(to, from, bytes); });
}
void clear(void* p, size_t bytes, Stream) {
  simt::enqueue([=] { memset(p, 0, bytes); });
}
Stream stream_create() { return &stream; }
void stream_destroy(Stream) {}
void synchronize(Stream) { must_not_capture("a stream is waited for while it is being captured"); }
bool capturing(Stream) { return simt::capturing(); }
Event event_create() { return &event; }
void event_destroy(Event) {}
void event_record(Event, Stream) {}
void event_wait(Event) { must_not_capture("an event is waited for while a stream is being captured"); }
void stream_wait(Stream, Event) {}
const char* take_error() { return nullptr; }

}  // namespace fth::gpu

// What tests pin themselves (tests/native/device_memory.h).
extern "C" int cudaHostRegister(void* p, size_t bytes, unsigned) {
  std::lock_guard<std::recursive_mutex> lock(fth::gpu::mutex);
  fth::gpu::memories()[uintptr_t(p)] = {bytes, fth::gpu::Reach::both};
  return 0;
}
extern "C" int cudaHostUnregister(void* p) {
  std::lock_guard<std::recursive_mutex> lock(fth::gpu::mutex);
  fth::gpu::memories().erase(uintptr_t(p));
  return 0;
}

// What tests capture.
extern "C" int cudaStreamBeginCapture(void*, int) {
  simt::capture(new simt::Work);
  return 0;
}
extern "C" int cudaStreamEndCapture(void*, void** graph) {
  *graph = simt::captured();
  simt::capture(nullptr);
  return 0;
}
extern "C" int cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  *executable = new simt::Work(*static_cast<simt::Work*>(graph));
  return 0;
}
extern "C" int cudaGraphLaunch(void* executable, void*) {
  for (const auto& work : *static_cast<simt::Work*>(executable)) work();
  return 0;
}
extern "C" int cudaGraphExecDestroy(void* executable) {
  delete static_cast<simt::Work*>(executable);
  return 0;
}
extern "C" int cudaGraphDestroy(void* graph) {
  delete static_cast<simt::Work*>(graph);
  return 0;
}
