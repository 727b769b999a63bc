// The seam to the CUDA runtime: all that this library asks of it except launches (kernels/cuda/primitives.h). gpu.cu
// calls the runtime, gpu_none.cpp stands in where the library is built without, tests/emulation/gpu.cpp where kernels
// run on the CPU. Streams and events are the runtime's own handles. A failure stays until take_error().
#pragma once
#include <cstddef>
#include <cstdint>

namespace fth::gpu {

using Stream = void*;
using Event = void*;

struct Properties {
  int32_t multiprocessors;
  int32_t compute_capability;  // 90: 9.0
  int64_t l2_bytes, memory_bytes;
  bool pageable;  // kernels reach all memory of the process
};
// Who can read and write an address.
enum class Reach { host, device, both };

// Usable devices; 0 with a sentence in `why` if there are none.
int32_t device_count(char* why, size_t why_bytes);
// False for a device that is not there.
bool properties(int32_t device, Properties* out);
// Makes a device current in this thread and returns the one that was.
int32_t use_device(int32_t device);

// Of the current device; null without memory. Both are zeroed.
void* allocate(size_t bytes);
void release(void* memory);
// Host memory at the same address for kernels of all devices.
void* allocate_pinned(size_t bytes);
void release_pinned(void* memory);
Reach reach(const void* p);

// Enqueued. Between pageable host memory and a device the call may wait.
void copy(void* to, const void* from, size_t bytes, Stream stream);
void clear(void* p, size_t bytes, Stream stream);

// A stream that does not wait for the legacy default stream; null if there is none to be had.
Stream stream_create();
void stream_destroy(Stream stream);
void synchronize(Stream stream);
// Work on the stream is recorded into a graph, not carried out.
bool capturing(Stream stream);

Event event_create();
void event_destroy(Event event);
void event_record(Event event, Stream stream);
// The calling thread, or later work of the stream, waits for what was recorded.
void event_wait(Event event);
void stream_wait(Stream stream, Event event);

// What went wrong since the last time, or null. Also asks for errors of kernels that have ended.
const char* take_error();

}  // namespace fth::gpu
