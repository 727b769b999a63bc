// Steps and recursions of few rows in one launch: a block per multiprocessor stays and carries out a list of tasks
// (cuda/queue.h), each by the device functions of the operation's own kernel. Where a task needs what others made, all
// blocks meet at a boundary: a count in memory. Whether a pass comes at all is decided on the way.
//
// A warp beside the team that computes brings the operands of products. W depends on nothing: while rows of x are
// waited for, the ring fills with the W of the products to come, over the ends of tasks and layers, so that the stream
// of W goes on through norms, attention and boundaries. What depends on rows' depths is not fetched ahead.
//
// Floor: bytes of W, K and V at the speed of memory, or the boundaries at some 1.3 us, of which a layer has eight, more
// with LoRA or codes; the larger of the two. 140 KB of ring in each of 132 multiprocessors are 18 MB, 4 us of memory:
// as much as three boundaries. Expected is more time than that, as what is between boundaries is short and waits for
// its first bytes (bench/gpu/NOTES.md).
#pragma once
#include "attention/cuda_attend.h"
#include "compact/cuda.h"
#include "gate/cuda.h"
#include "kv/cuda_write.h"
#include "linear/cuda_input.h"
#include "linear/cuda_stream.h"
#include "norm/cuda.h"
#include "persistent/persistent.h"
#include "recursion/cuda.h"
#include "rope/cuda.h"

namespace fth::persistent {
namespace {

using namespace gpu;

constexpr int kColumns = int(kTaskRows);
constexpr int kAttentionStages = 64 << 10;  // bytes
template <class T>
using Attention = attention::Shared<T, int(kMostHeadDim), false, kAttentionStages>;

// Shared memory: that of operations but products; the records of the task that the team carries out and of that for
// which operands are brought; the ring.
constexpr size_t kOperations =
    std::max({sizeof(Attention<bf16>), sizeof(Attention<int8_t>), gate::shared_bytes(4096)});
constexpr size_t kRecords = (kOperations + 15) / 16 * 16;
constexpr int kKept = int((kRecords + 2 * sizeof(Task) + 1023) / 1024 * 1024);
template <class P>
using Ring = linear::Shape<P, kColumns, 1, kKept>;

template <class P>
__device__ __forceinline__ const P& params_of(const Task& task) {
  return *reinterpret_cast<const P*>(task.params);
}

// The record of a task into shared memory, by the threads of which this is number `thread`.
__device__ __forceinline__ void copy_record(Task& to, const Task& from, int thread) {
  constexpr int kWords = sizeof(Task) / 16;
  static_assert(kWords <= 32, "one access per lane");
  if (thread < kWords) reinterpret_cast<uint4*>(&to)[thread] = reinterpret_cast<const uint4*>(&from)[thread];
}

// The first item of a product that this block has; the others follow at a distance of all blocks.
__device__ __forceinline__ int first_item(const Task& task) {
  return int((blockIdx.x + gridDim.x - task.products_before % gridDim.x) % gridDim.x);
}

// The block's items of all products of a list.
template <class H>
struct ListItems {
  const Task* tasks;
  int at, number;  // of the next item: its task, its number there
  const linear::Params* product = nullptr;
  linear::Item<H::N, H::Strips> item = {};

  __device__ ListItems(const Task* tasks, int first) : tasks(tasks), at(first), number(first_item(tasks[first])) {}
  __device__ __forceinline__ bool next() {
    while (tasks[at].op == Op::leave || number >= tasks[at].items) {
      if (tasks[at].op == Op::end) return false;
      at = tasks[at].next;
      number = first_item(tasks[at]);
    }
    product = &params_of<linear::Params>(tasks[at]);
    item = linear::Item<H::N, H::Strips>(*product, number);
    number += int(gridDim.x);
    return true;
  }
};

template <class H, class Body>
__device__ __forceinline__ void for_items(const Task& task, Body body) {
  const auto& p = params_of<linear::Params>(task);
#pragma unroll 1
  for (int i = first_item(task); i < task.items; i += int(gridDim.x))
    body(p, linear::Item<H::N, H::Strips>(p, i), p.count());
}

template <class H>
__device__ __forceinline__ void load_list(linear::Shared<H>& shared, const Task* tasks, int first,
                                          const unsigned* counter) {
  const int lane = int(threadIdx.x) - H::kConsumers;
  Task& task = shared_memory<Task>(kRecords)[1];
  linear::Loader<H, ListItems<H>> loader{shared_memory<unsigned char>(H::kRing), shared, lane,
                                         ListItems<H>(tasks, first)};
#pragma unroll 1
  for (int at = first;; at = task.next) {
    __syncwarp();  // the last record has been read
    copy_record(task, tasks[at], lane);
    __syncwarp();
    if (task.op == Op::end) return;
    if (lane == 0)
      while (!reached(counter, unsigned(task.boundaries) * gridDim.x)) loader.run_ahead(1);
    __syncwarp();
    if (task.op == Op::leave) {
      if (load_fresh(params_of<Leave>(task).live) > 0) continue;
      if (lane == 0) loader.drain();
      return;
    }
    for_items<H>(task, [&](const linear::Params& p, const auto& item, int64_t count) {
      if (task.op == Op::product) loader.template bring<false>(p, item, count);
      else loader.template bring<true>(p, item, count);
    });
    loader.tell_all();
  }
}

// Row `row` of a task. KV: the type of K and V.
template <class KV>
__device__ __forceinline__ void carry_out_row(const Task& task, int64_t row) {
  const int thread = int(threadIdx.x), warp = thread / 32;
  switch (task.op) {
    case Op::norm: return norm::norm_row(params_of<norm::Args>(task), row);
    case Op::angles: {
      const auto& p = params_of<rope::cuda::Angles>(task);
      for (int64_t k = thread; k < p.pairs; k += kTeam) rope::fill_angle(p, row, k);
      return;
    }
    case Op::rotate: return rope::rotate_row(params_of<rope::Args>(task), row, 0, 1);
    case Op::write_kv: {
      const auto& p = params_of<kv::Params>(task);
      for (int64_t i = row * p.kv_heads + warp; i < (row + 1) * p.kv_heads; i += kTeam / 32)
        kv::write_item<KV>(p, i);
      return;
    }
    case Op::gather: return compact::move_row<compact::kGather>(params_of<compact::Params>(task), row, 0, 1);
    case Op::scatter: return compact::move_row<compact::kScatter>(params_of<compact::Params>(task), row, 0, 1);
    case Op::add: return compact::move_row<compact::kAdd>(params_of<compact::Params>(task), row, 0, 1);
    case Op::round: {
      const auto& p = params_of<linear::Rounding>(task);
      for (int64_t i = thread; i < p.eights(); i += kTeam) linear::round_eight(p, row, i * 8);
      return;
    }
    case Op::quantise: {
      const auto& p = params_of<linear::Quantising>(task);
      for (int64_t i = warp; i < p.spans(); i += kTeam / 32) linear::quantise_span(p, row, i);
      return;
    }
    default: return gate::gate_row(params_of<gate::Params>(task), row);
  }
}

template <class H, class KV>
__device__ __forceinline__ void carry_out_list(linear::Shared<H>& shared, const Task* tasks, unsigned* counter) {
  Task& task = *shared_memory<Task>(kRecords);
  const linear::Finish finish{};
  linear::Multiplier<H, linear::Finish> multiplier{shared_memory<unsigned char>(H::kRing), shared, finish};
  unsigned boundaries = 0;
  bool boundary = false;
#pragma unroll 1
  for (const Task* next = tasks;; next++) {
    team_barrier();  // the last task is done
    if (boundary && threadIdx.x == 0) count_up(counter);
    copy_record(task, *next, int(threadIdx.x));
    if (boundary && threadIdx.x == 0) wait_for(counter, ++boundaries * gridDim.x);
    team_barrier();
    boundary = task.boundary_behind != 0;
    switch (task.op) {
      case Op::end: return;
      case Op::leave:
        if (load_fresh(params_of<Leave>(task).live) == 0) return;
        break;
      case Op::select:
        if (blockIdx.x == 0) recursion::select_rows(params_of<recursion::Select>(task));
        break;
      case Op::plan:  // the block that has the fewest rows
        if (blockIdx.x == gridDim.x - 1) attention::plan_items(params_of<attention::PlanArgs>(task));
        break;
      case Op::attend:
        attention::attend_items(params_of<attention::Params>(task), *shared_memory<Attention<KV>>(), int(blockIdx.x),
                                int(gridDim.x));
        break;
      case Op::product:
        for_items<H>(task, [&](const linear::Params& p, const auto& item, int64_t count) {
          multiplier.template compute<false>(p, item, count);
        });
        break;
      case Op::by_depth:
        for_items<H>(task, [&](const linear::Params& p, const auto& item, int64_t count) {
          multiplier.template compute<true>(p, item, count);
        });
        break;
      default:
        for (int row = int(blockIdx.x); row < task.items; row += int(gridDim.x)) carry_out_row<KV>(task, row);
    }
  }
}

// A kernel for each type of K and V, and one width of heads: with more attention in one, ptxas keeps more of what does
// not change from task to task in registers than there are. A function that is not inlined would serialise wgmma.
template <class P, class KV>
__global__ void __launch_bounds__(Ring<P>::kThreads, 1) run_list(const Task* tasks, int first, unsigned* counters) {
  using H = Ring<P>;
  linear::Shared<H>& shared = linear::make_ring<H>();
  if (threadIdx.x >= H::kConsumers) load_list<H>(shared, tasks, first, counters);
  else carry_out_list<H, KV>(shared, tasks, counters);
  // Nobody waits any more when the last block has come.
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(counters + 1, 1u) == gridDim.x - 1) {
    atomicExch(counters, 0u);
    atomicExch(counters + 1, 0u);
  }
}

template <class P, class KV>
void start(const TaskList& list, const Task* tasks, unsigned* counters, int32_t multiprocessors, Stream stream) {
  using H = Ring<P>;
  launch(run_list<P, KV>, {dim3(unsigned(multiprocessors)), dim3(H::kThreads), size_t(H::kBytes), true}, stream, tasks,
         list.first(), counters);
}

template <class KV>
void start(const TaskList& list, int32_t weight_type, const Task* tasks, unsigned* counters, int32_t multiprocessors,
           Stream stream) {
  using namespace linear;
  switch (weight_type) {
    case FTH_BF16: return start<Bf16Wide, KV>(list, tasks, counters, multiprocessors, stream);
    case FTH_F8_E4M3: return start<F8Wide, KV>(list, tasks, counters, multiprocessors, stream);
    case FTH_I8: return start<Quantised<FTH_I8, Bf16Wide>, KV>(list, tasks, counters, multiprocessors, stream);
    case FTH_Q8_0: return start<Quantised<FTH_Q8_0, Bf16Wide>, KV>(list, tasks, counters, multiprocessors, stream);
    default: return start<Quantised<FTH_Q4_0, Bf16Wide>, KV>(list, tasks, counters, multiprocessors, stream);
  }
}

}  // namespace

// The launch of a list that is on the device at `tasks`, by type of K and V: a file each.
void start_bf16(const TaskList& list, int32_t weight_type, const Task* tasks, unsigned* counters,
                int32_t multiprocessors, Stream stream);
void start_int8(const TaskList& list, int32_t weight_type, const Task* tasks, unsigned* counters,
                int32_t multiprocessors, Stream stream);

}  // namespace fth::persistent
