#include "device.h"

#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace fth {

Device* Device::open(int32_t ordinal, char* why, size_t why_bytes, bool* out_of_memory) {
  *out_of_memory = false;
  const int32_t count = gpu::device_count(why, why_bytes);
  if (count == 0) return nullptr;
  if (ordinal < 0 || ordinal >= count) {
    snprintf(why, why_bytes, "there is no CUDA device %d; there %s %d", ordinal, count == 1 ? "is" : "are", count);
    return nullptr;
  }
  gpu::Properties properties;
  if (!gpu::properties(ordinal, &properties)) {
    snprintf(why, why_bytes, "CUDA device %d cannot be used", ordinal);
    return nullptr;
  }
  if (properties.compute_capability < 80) {
    snprintf(why, why_bytes, "CUDA device %d has compute capability %d.%d, and the kernels need 8.0", ordinal,
             properties.compute_capability / 10, properties.compute_capability % 10);
    return nullptr;
  }
  void* memory = malloc(sizeof(Device));
  Device* device = memory == nullptr ? nullptr : new (memory) Device();
  bool complete = device != nullptr;
  if (complete) {
    device->ordinal_ = ordinal;
    device->properties_ = properties;
    const int32_t before = gpu::use_device(ordinal);
    device->stream_ = device->own_stream_ = gpu::stream_create();
    device->order_ = gpu::event_create();
    complete = device->own_stream_ != nullptr && device->order_ != nullptr;
    for (gpu::Event& event : device->done_) complete = (event = gpu::event_create()) != nullptr && complete;
    complete = complete && device->grow_staging(kLeastPart) && device->tickets(1024) != nullptr;
    gpu::use_device(before);
  }
  if (!complete) {
    if (device != nullptr) device->close();
    *out_of_memory = true;
    snprintf(why, why_bytes, "too little memory on CUDA device %d", ordinal);
    return nullptr;
  }
  return device;
}

void Device::close() {
  const int32_t before = gpu::use_device(ordinal_);
  if (own_stream_ != nullptr) {
    gpu::synchronize(stream_);
    gpu::stream_destroy(own_stream_);
  }
  if (order_ != nullptr) gpu::event_destroy(order_);
  for (gpu::Event event : done_)
    if (event != nullptr) gpu::event_destroy(event);
  if (scratch_ != nullptr) gpu::release(scratch_);
  if (tickets_ != nullptr) gpu::release(tickets_);
  if (partials_ != nullptr) gpu::release(partials_);
  if (image_ != nullptr) gpu::release(image_);
  if (pinned_ != nullptr) gpu::release_pinned(pinned_);
  gpu::use_device(before);
  free(task_memory_);
  free(this);
}

void Device::use_stream(gpu::Stream stream) {
  if (stream == stream_) return;
  gpu::event_record(order_, stream_);
  gpu::stream_wait(stream, order_);
  stream_ = stream;
}

char* Device::reserve(size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_;
  if (gpu::capturing(stream_)) return nullptr;
  // Kernels under way may use the old scratch; releasing it waits for them.
  const size_t wanted = grown_scratch(bytes);
  char* fresh = static_cast<char*>(gpu::allocate(wanted));
  if (fresh == nullptr) return nullptr;
  gpu::synchronize(stream_);
  if (scratch_ != nullptr) gpu::release(scratch_);
  scratch_ = fresh;
  scratch_bytes_ = wanted;
  return scratch_;
}

unsigned* Device::tickets(size_t count) {
  if (count <= ticket_count_) return tickets_;
  if (gpu::capturing(stream_)) return nullptr;
  unsigned* fresh = static_cast<unsigned*>(gpu::allocate(2 * count * sizeof(unsigned)));
  if (fresh == nullptr) return nullptr;
  gpu::synchronize(stream_);
  if (tickets_ != nullptr) gpu::release(tickets_);
  tickets_ = fresh;
  ticket_count_ = 2 * count;
  return tickets_;
}

linear::Workspace Device::workspace() {
  constexpr size_t kBytes = size_t(16) << 20;
  if (partials_ == nullptr && !gpu::capturing(stream_)) partials_ = static_cast<float*>(gpu::allocate(kBytes));
  return {partials_, partials_ == nullptr ? 0 : int64_t(kBytes), tickets_, int64_t(ticket_count_ - kCounters),
          properties_.multiprocessors, wgmma()};
}

bool Device::record(int64_t most) {
  if (!records()) return false;
  if (most > task_room_) {
    void* fresh = aligned_alloc(alignof(gpu::Task), size_t(most) * sizeof(gpu::Task));
    if (fresh == nullptr) return false;
    free(task_memory_);
    task_memory_ = static_cast<gpu::Task*>(fresh);
    task_room_ = most;
  }
  tasks_ = gpu::TaskList(task_memory_, int32_t(most));
  return recording_ = true;
}

const gpu::TaskList& Device::recorded() {
  recording_ = false;
  tasks_.end();
  return tasks_;
}

bool Device::grow_staging(size_t part_bytes) {
  char* pinned = static_cast<char*>(gpu::allocate_pinned(kParts * part_bytes));
  char* image = static_cast<char*>(gpu::allocate(kParts * part_bytes));
  if (pinned == nullptr || image == nullptr) {
    if (pinned != nullptr) gpu::release_pinned(pinned);
    if (image != nullptr) gpu::release(image);
    return false;
  }
  gpu::synchronize(stream_);
  if (image_ != nullptr) gpu::release(image_);
  if (pinned_ != nullptr) gpu::release_pinned(pinned_);
  pinned_ = pinned;
  image_ = image;
  part_bytes_ = part_bytes;
  at_ = 0;
  part_ = 0;
  return true;
}

bool Device::stage(const Array* arrays, int count, char* why, size_t why_bytes) {
  const auto room = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const bool capturing = gpu::capturing(stream_);
  size_t total = 0;
  for (int i = 0; i < count; i++) {
    if (*arrays[i].p == nullptr) continue;
    total += room(arrays[i].bytes);
    if (capturing && gpu::reach(*arrays[i].p) != gpu::Reach::both) {
      snprintf(why, why_bytes, "%s must be in pinned memory while the stream is being captured", arrays[i].name);
      return false;
    }
  }
  if (capturing || total == 0) return true;
  if (total > part_bytes_ && !grow_staging(2 * total)) {
    snprintf(why, why_bytes, "%zu bytes of pinned memory and as many on the device could not be had", 2 * total);
    return false;
  }
  if (at_ + total > part_bytes_) {
    gpu::event_record(done_[part_], stream_);
    part_ = (part_ + 1) % kParts;
    gpu::event_wait(done_[part_]);
    at_ = 0;
  }
  const size_t first = size_t(part_) * part_bytes_ + at_;
  size_t at = first;
  for (int i = 0; i < count; i++) {
    if (*arrays[i].p == nullptr) continue;
    memcpy(pinned_ + at, *arrays[i].p, arrays[i].bytes);
    *arrays[i].p = image_ + at;
    at += room(arrays[i].bytes);
  }
  gpu::copy(image_ + first, pinned_ + first, total, stream_);
  at_ += total;
  return true;
}

}  // namespace fth
