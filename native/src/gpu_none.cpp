// Stands in for gpu.cu in a build without CUDA: there are no devices, so nothing else is ever called.
#include "gpu.h"

#include <stdio.h>

namespace fth::gpu {

int32_t device_count(char* why, size_t why_bytes) {
  snprintf(why, why_bytes, "this library was built without CUDA");
  return 0;
}
bool properties(int32_t, Properties*) { return false; }
int32_t use_device(int32_t) { return 0; }
void* allocate(size_t) { return nullptr; }
void release(void*) {}
void* allocate_pinned(size_t) { return nullptr; }
void release_pinned(void*) {}
Reach reach(const void*) { return Reach::host; }
void copy(void*, const void*, size_t, Stream) {}
void clear(void*, size_t, Stream) {}
Stream stream_create() { return nullptr; }
void stream_destroy(Stream) {}
void synchronize(Stream) {}
bool capturing(Stream) { return false; }
Event event_create() { return nullptr; }
void event_destroy(Event) {}
void event_record(Event, Stream) {}
void event_wait(Event) {}
void stream_wait(Stream, Event) {}
const char* take_error() { return nullptr; }

}  // namespace fth::gpu
