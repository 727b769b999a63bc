// A list of tasks in one launch.
#pragma once
#include "cuda/queue.h"
#include "linear/linear.h"

namespace fth::persistent {

constexpr int64_t kMostHeadDim = 64;

namespace cuda {
// Needs a device of compute capability 9.0. Neither weights nor K and V are fp32; heads are at most kMostHeadDim wide.
// `room`: memory of the device for the tasks. counters: two words there, zero between launches.
void run(const gpu::TaskList& list, int32_t weight_type, int32_t kv_type, gpu::Task* room, unsigned* counters,
         int32_t multiprocessors, void* stream);
}  // namespace cuda

}  // namespace fth::persistent
