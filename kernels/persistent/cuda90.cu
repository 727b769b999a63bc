// Lists of tasks with K and V in bf16, and how lists get to the device: as parameters of launches, so that no memory of
// the host has to stay as it is, and a graph keeps them.
#include "persistent/cuda_list.h"

namespace fth::persistent {
namespace {

struct Page {
  static constexpr int kTasks = 64;
  Task task[kTasks];
};
__global__ void __launch_bounds__(kTeam) write_page(const __grid_constant__ Page page, int words, Task* to) {
  for (int i = int(threadIdx.x); i < words; i += kTeam)
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(page.task)[i];
}

}  // namespace

void start_bf16(const TaskList& list, int32_t weight_type, const Task* tasks, unsigned* counters,
                int32_t multiprocessors, Stream stream) {
  start<bf16>(list, weight_type, tasks, counters, multiprocessors, stream);
}

void cuda::run(const TaskList& list, int32_t weight_type, int32_t kv_type, Task* room, unsigned* counters,
               int32_t multiprocessors, Stream stream) {
  for (int32_t at = 0; at < list.count(); at += Page::kTasks) {
    const int32_t tasks = std::min(Page::kTasks, list.count() - at);
    Page page;
    memcpy(page.task, list.tasks() + at, size_t(tasks) * sizeof(Task));
    launch(write_page, {dim3(1), dim3(kTeam)}, stream, page, int(size_t(tasks) * sizeof(Task) / 16), room + at);
  }
  (kv_type == FTH_BF16 ? start_bf16 : start_int8)(list, weight_type, room, counters, multiprocessors, stream);
}

}  // namespace fth::persistent
