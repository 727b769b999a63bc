// What a CUDA context has that a CPU context has not: a device, a stream on it, scratch there, and staging for the
// small arrays of a call (rows, lists, indices) that the caller keeps in host memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cuda/queue.h"
#include "gpu.h"
#include "linear/linear.h"

namespace fth {

// What is allocated for scratch of `bytes`: half as much again, so that slowly growing steps do not allocate each time,
// in whole pages of 2 MiB.
inline size_t grown_scratch(size_t bytes) {
  constexpr size_t kPage = size_t(2) << 20;
  return (bytes + bytes / 2 + kPage - 1) / kPage * kPage;
}

class Device {
 public:
  // Null with a sentence and, for memory that could not be had, `out_of_memory`.
  static Device* open(int32_t ordinal, char* why, size_t why_bytes, bool* out_of_memory);
  // Waits until the stream is done.
  void close();

  int32_t ordinal() const { return ordinal_; }
  const gpu::Properties& properties() const { return properties_; }
  gpu::Stream stream() const { return stream_; }
  // Where operations go that a single launch can carry out: the stream, or the list while tasks are recorded.
  gpu::Queue queue() { return {stream_, recording_ ? &tasks_ : nullptr}; }
  // Whether it has the products of warpgroups: compute capability 9.0 alone.
  bool wgmma() const { return properties_.compute_capability == 90; }
  // Later work goes there, after all that was enqueued before.
  void use_stream(gpu::Stream stream);

  bool host_reads(const void* p) const { return gpu::reach(p) != gpu::Reach::device; }
  bool device_reaches(const void* p) const { return properties_.pageable || gpu::reach(p) != gpu::Reach::host; }

  // At least `bytes`, 1024-byte aligned; earlier scratch becomes invalid. Null without memory, or if it would have to
  // grow while the stream is being captured. Its contents are undefined.
  char* reserve(size_t bytes);
  size_t scratch_bytes() const { return scratch_bytes_; }
  // Blocks that count one another use these: zero between calls.
  unsigned* tickets(size_t count);

  // For products of few rows; without its memory, which is had at the first use, they take longer.
  linear::Workspace workspace();

  // From now on operations are recorded, `most` tasks at most. False without memory for them, or where no launch can
  // carry them out.
  bool record(int64_t most);
  // Ends that. Counters of the launch that carries the tasks out: zero between launches.
  const gpu::TaskList& recorded();
  unsigned* counters() const { return tickets_ + ticket_count_ - kCounters; }
  bool records() const { return records_ && properties_.compute_capability == 90; }
  // For tests: without it operations are launched.
  void use_records(bool use) { records_ = use; }

  // Replaces pointers to arrays of the host by addresses at which the kernels of this call find copies of them. While
  // the stream is being captured an array stays where it is, in pinned memory, and each replay reads it anew. False
  // with a sentence in `why`.
  struct Array {
    const char* name;
    const void** p;  // may point to null
    size_t bytes;
  };
  bool stage(const Array* arrays, int count, char* why, size_t why_bytes);

 private:
  static constexpr size_t kLeastPart = size_t(256) << 10;
  static constexpr int kParts = 4;
  static constexpr size_t kCounters = 2;  // tickets of a launch of tasks, behind those of products

  bool grow_staging(size_t part_bytes);

  int32_t ordinal_ = 0;
  gpu::Properties properties_{};
  gpu::Stream own_stream_ = nullptr, stream_ = nullptr;
  gpu::Event order_ = nullptr;  // between an old stream and a new one
  char* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  unsigned* tickets_ = nullptr;
  size_t ticket_count_ = 0;
  float* partials_ = nullptr;
  gpu::Task* task_memory_ = nullptr;
  int64_t task_room_ = 0;
  gpu::TaskList tasks_;
  bool recording_ = false, records_ = true;
  // Parts of pinned memory that are used in turn, and their images on the device. Images are written in stream order; a
  // part of the pinned memory is written again only after the copies out of it, which its event follows, are done.
  char *pinned_ = nullptr, *image_ = nullptr;
  size_t part_bytes_ = 0, at_ = 0;  // at_ within the part
  int part_ = 0;
  gpu::Event done_[kParts] = {};
};

}  // namespace fth
