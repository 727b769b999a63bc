// Lists of tasks with K and V in int8.
#include "persistent/cuda_list.h"

namespace fth::persistent {

void start_int8(const TaskList& list, int32_t weight_type, const Task* tasks, unsigned* counters,
                int32_t multiprocessors, Stream stream) {
  start<int8_t>(list, weight_type, tasks, counters, multiprocessors, stream);
}

}  // namespace fth::persistent
