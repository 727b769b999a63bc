// The only file that calls the CUDA runtime for anything but launches. The runtime is linked statically, so the library
// loads on a machine without a driver and reports that here.
#include "gpu.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

namespace fth::gpu {
namespace {

cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_handle(Event event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

int32_t device_count(char* why, size_t why_bytes) {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  // The runtime calls a missing driver one that is too old.
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    snprintf(why, why_bytes, "no CUDA driver");
  else if (error == cudaSuccess || error == cudaErrorNoDevice)
    snprintf(why, why_bytes, "no CUDA device");
  else if (error == cudaErrorInsufficientDriver)
    snprintf(why, why_bytes, "the CUDA driver is for CUDA %d.%d and this library needs %d.%d", driver / 1000,
             driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  else
    snprintf(why, why_bytes, "no usable CUDA device: %s", cudaGetErrorString(error));
  return 0;
}

bool properties(int32_t device, Properties* out) {
  const auto ask = [device](cudaDeviceAttr attribute) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : -1;
  };
  const int major = ask(cudaDevAttrComputeCapabilityMajor), before = use_device(device);
  size_t available = 0, total = 0;
  const bool there = major > 0 && cudaMemGetInfo(&available, &total) == cudaSuccess;
  use_device(before);
  if (there)
    *out = {ask(cudaDevAttrMultiProcessorCount), 10 * major + ask(cudaDevAttrComputeCapabilityMinor),
            ask(cudaDevAttrL2CacheSize), int64_t(total), ask(cudaDevAttrPageableMemoryAccess) == 1};
  else
    cudaGetLastError();
  return there;
}

int32_t use_device(int32_t device) {
  int before = device;
  cudaGetDevice(&before);
  if (before != device) cudaSetDevice(device);
  return before;
}

void* allocate(size_t bytes) {
  void* p = nullptr;
  if (cudaMalloc(&p, bytes) != cudaSuccess || cudaMemset(p, 0, bytes) != cudaSuccess) {
    cudaGetLastError();
    cudaFree(p);
    return nullptr;
  }
  return p;
}

void release(void* memory) { cudaFree(memory); }

void* allocate_pinned(size_t bytes) {
  void* p = nullptr;
  if (cudaHostAlloc(&p, bytes, cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  memset(p, 0, bytes);
  return p;
}

void release_pinned(void* memory) { cudaFreeHost(memory); }

Reach reach(const void* p) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, p) != cudaSuccess) {
    cudaGetLastError();
    return Reach::host;
  }
  if (attributes.type == cudaMemoryTypeDevice) return Reach::device;
  return attributes.type == cudaMemoryTypeUnregistered ? Reach::host : Reach::both;
}

void copy(void* to, const void* from, size_t bytes, Stream stream) {
  cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle(stream));
}
void clear(void* p, size_t bytes, Stream stream) { cudaMemsetAsync(p, 0, bytes, handle(stream)); }

Stream stream_create() {
  cudaStream_t stream = nullptr;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) cudaGetLastError();
  return stream;
}
void stream_destroy(Stream stream) { cudaStreamDestroy(handle(stream)); }
void synchronize(Stream stream) { cudaStreamSynchronize(handle(stream)); }

bool capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(handle(stream), &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

Event event_create() {
  cudaEvent_t event = nullptr;
  if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess) cudaGetLastError();
  return event;
}
void event_destroy(Event event) { cudaEventDestroy(event_handle(event)); }
void event_record(Event event, Stream stream) { cudaEventRecord(event_handle(event), handle(stream)); }
void event_wait(Event event) { cudaEventSynchronize(event_handle(event)); }
void stream_wait(Stream stream, Event event) { cudaStreamWaitEvent(handle(stream), event_handle(event), 0); }

const char* take_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace fth::gpu
