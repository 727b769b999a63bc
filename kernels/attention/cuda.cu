// Attention (cuda_attend.h): blocks are persistent and take items of a plan (cuda_plan.h). Floors: bytes of the K and V
// that rows see / copy rate; products / rate of the tensor cores.
#include "attention/cuda_attend.h"

namespace fth::attention {
namespace {

// Blocks of a multiprocessor: what its shared memory holds, but no more than leave enough registers.
template <class T, int Dim, bool Wide>
constexpr int kBlocks = std::min(Wide ? 1 : 3, (227 << 10) / (int(sizeof(Shared<T, Dim, Wide>)) + (1 << 10)));

template <class T, int Dim, bool Wide>
__global__ void __launch_bounds__(Shared<T, Dim, Wide>::kThreads, kBlocks<T, Dim, Wide>)
attend(const __grid_constant__ Params p) {
  attend_items(p, *shared_memory<Shared<T, Dim, Wide>>(), int(blockIdx.x), int(gridDim.x));
}

__global__ void __launch_bounds__(kTeam) make_plan(const __grid_constant__ PlanArgs p) { plan_items(p); }

// How a call's work and scratch divide. Narrow: no wide items, and no more scratch.
struct Division {
  int32_t tile_rows, wide_rows, parts, states;  // wide_rows: 0 if there are no wide items
  int64_t state_floats, items_at, wide_at, count_at, tickets_at, states_at, bytes;
};

Division divide(const Args& a, int64_t count, int32_t multiprocessors, bool narrow = false) {
  constexpr int64_t kStateBytes = 256 << 10;  // of scratch for states, per multiprocessor
  Division d;
  const int64_t group = a.heads / a.kv_heads;
  d.parts = int32_t((group + kTileVectors - 1) / kTileVectors);
  const int64_t most_heads = (group + d.parts - 1) / d.parts;  // of a part
  d.tile_rows = int32_t(kTileVectors / most_heads);
  const int64_t dim = a.head_dim <= 64 ? 64 : a.head_dim <= 128 ? 128 : 256, all_parts = a.kv_heads * d.parts;
  d.state_floats = d.tile_rows * most_heads * (dim + 2);
  d.states = int32_t(kStateBytes * multiprocessors / (d.state_floats * 4 * all_parts));
  // Wide items are not split: there must be enough of them.
  const int64_t wide_rows = kWideWarps * d.tile_rows;
  const bool wide = !narrow && a.head_dim <= 128 &&
                    (count + wide_rows - 1) / wide_rows * all_parts >= multiprocessors / 2;
  d.wide_rows = wide ? int32_t(wide_rows) : 0;
  d.items_at = 0;
  d.wide_at = d.items_at + (count + d.states) * int64_t(sizeof(Item));
  d.count_at = d.wide_at + (wide ? count : 0) * int64_t(sizeof(Item));
  d.tickets_at = d.count_at + 64;
  d.states_at = d.tickets_at + (d.states * all_parts * 4 + 63) / 64 * 64;
  d.bytes = d.states_at + d.states * all_parts * d.state_floats * 4;
  return d;
}

template <class T, int Dim, bool Wide>
void launch_attend(const Params& p, int64_t most_work, int32_t multiprocessors, Stream stream) {
  const int64_t blocks = multiprocessors * kBlocks<T, Dim, Wide>;
  using S = Shared<T, Dim, Wide>;
  const Grid grid{dim3(unsigned(blocks < most_work ? blocks : most_work)), dim3(S::kThreads), sizeof(S)};
  launch(attend<T, Dim, Wide>, grid, stream, p);
}

template <class T, bool Wide>
void launch_dim(const Params& p, int64_t most_work, int32_t multiprocessors, Stream stream) {
  if (p.a.head_dim <= 64) return launch_attend<T, 64, Wide>(p, most_work, multiprocessors, stream);
  if (p.a.head_dim <= 128) return launch_attend<T, 128, Wide>(p, most_work, multiprocessors, stream);
  if constexpr (!Wide) launch_attend<T, 256, Wide>(p, most_work, multiprocessors, stream);
}

template <class T>
void launch_type(const Params& p, bool wide, int64_t most_work, int32_t multiprocessors, Stream stream) {
  if constexpr (sizeof(T) < 4)
    if (wide) launch_dim<T, true>(p, most_work, multiprocessors, stream);
  launch_dim<T, false>(p, most_work, multiprocessors, stream);
}

}  // namespace

size_t cuda::scratch_bytes(const Args& a, int64_t count, int32_t multiprocessors) {
  return size_t(divide(a, count, multiprocessors).bytes);
}

void cuda::plan(const Args& a, int64_t count, int32_t multiprocessors, char* scratch, const Queue& queue) {
  const Division d = divide(a, count, multiprocessors, queue.tasks != nullptr);
  PlanArgs p{};
  p.rows = a.rows;
  p.count = int32_t(count);
  p.tile_rows = d.tile_rows;
  p.wide_rows = a.kv_type == FTH_F32 ? 0 : d.wide_rows;
  p.states = d.states;
  p.masked = a.masked;
  p.items = reinterpret_cast<Item*>(scratch + d.items_at);
  p.wide_items = reinterpret_cast<Item*>(scratch + d.wide_at);
  p.item_count = reinterpret_cast<int32_t*>(scratch + d.count_at);
  p.tickets = reinterpret_cast<unsigned*>(scratch + d.tickets_at);
  p.all_parts = a.kv_heads * d.parts;
  if (queue.tasks != nullptr) return queue.tasks->add(Op::plan, Share::row, 1, p);
  launch(make_plan, {dim3(1), dim3(kTeam), kTeam / 32 * sizeof(int)}, queue.stream, p);
}

void cuda::run(const Args& a, int64_t count, int32_t multiprocessors, char* scratch, const Queue& queue) {
  const Division d = divide(a, count, multiprocessors, queue.tasks != nullptr);
  Params p{};
  p.a = a;
  p.aligned = true;
  if (a.masked) {
    const int64_t element = kv::element_bytes(a.kv_type);
    for (const int64_t bytes : {int64_t(reinterpret_cast<uintptr_t>(a.k)), int64_t(reinterpret_cast<uintptr_t>(a.v)),
                                a.sequence_stride * element, a.token_stride * element, a.head_stride * element})
      p.aligned = p.aligned && bytes % 16 == 0;
  } else {
    p.pool = kv::cuda::rows_of(a.pool, a.layer);
  }
  p.parts = d.parts;
  p.state_floats = d.state_floats;
  p.items = reinterpret_cast<const Item*>(scratch + d.items_at);
  p.wide_items = reinterpret_cast<const Item*>(scratch + d.wide_at);
  p.item_count = reinterpret_cast<const int32_t*>(scratch + d.count_at);
  p.states = reinterpret_cast<float*>(scratch + d.states_at);
  p.tickets = reinterpret_cast<unsigned*>(scratch + d.tickets_at);
  if (queue.tasks != nullptr) return queue.tasks->add(Op::attend, Share::all, 0, p);
  const int64_t most_work = (count + d.states) * a.kv_heads * d.parts;
  if (a.kv_type == FTH_F32) launch_type<float>(p, d.wide_rows > 0, most_work, multiprocessors, queue.stream);
  else if (a.kv_type == FTH_BF16) launch_type<bf16>(p, d.wide_rows > 0, most_work, multiprocessors, queue.stream);
  else launch_type<int8_t>(p, d.wide_rows > 0, most_work, multiprocessors, queue.stream);
}

}  // namespace fth::attention
