#include <string.h>

#include "attention.h"
#include "block.h"
#include "compact.h"
#include "gate.h"
#include "recursion/recursion.h"
#include "tasks.h"

namespace fth {
namespace {

bool check_shape(Check& check, const fth_recursion_shape* s, const fth_block_shape* block, const fth_gate_shape* gate) {
  if (!check.array("shape", s) || !check.array("block", block) || !check.array("gate", gate, false)) return false;
  if (!check_block(check, block) || (gate != nullptr && !check_gate(check, gate))) return false;
  check.range("shape.depths", s->depths, 1, block->depths);
  check.range("shape.update", s->update, FTH_UPDATE_REPLACE, FTH_UPDATE_ADD_GATED);
  check.range("shape.going", s->going, 0, gate == nullptr ? INT32_MAX : gate->outputs == 1 ? 1 : gate->outputs - 1);
  check.range("shape.reserved", s->reserved, 0, 0);
  check.that(block->cross == 0, "block.cross must be 0, got %d", block->cross);
  check.that(gate != nullptr || s->update != FTH_UPDATE_ADD_GATED, "gate must not be null with FTH_UPDATE_ADD_GATED");
  if (gate != nullptr) {
    check.that(gate->depths == 1 || gate->depths >= s->depths,
               "gate.depths must be 1 or at least shape.depths (%d), got %d", s->depths, gate->depths);
    check.that(gate->hidden_size == block->hidden_size, "gate.hidden_size must be block.hidden_size (%d), got %d",
               block->hidden_size, gate->hidden_size);
  }
  return check.ok();
}

// What the host works on: the lists with room taken for every row that may come, and every row as it is if all come.
struct Words {
  size_t lists, rows, words, step;

  Words(Layout& layout, const fth_block_shape& block, int32_t depths, int64_t count, int64_t entry_count)
      : lists(layout.add<int32_t>(entry_count)),
        rows(layout.add<fth_row>(depths * count)),
        words(layout.add<int32_t>(check_distinct_words(depths * count))),
        step(layout.add<char>(int64_t(step_words(block, count)))) {}
};

// Fills lists and rows; false with a sentence if an item or a row is out of range.
bool expect_all(Check& check, int32_t depths, int64_t count, const fth_row* rows, const int32_t* entries,
                int64_t entry_count, int64_t pool_entries, int32_t* lists, fth_row* all) {
  memcpy(lists, entries, size_t(entry_count) * sizeof *lists);
  for (int32_t d = 0; d < depths; d++)
    for (int64_t i = 0, rank = 0; i < count; i++) {
      const int64_t at = d * count + i;
      const fth_row& row = rows[at];
      rank = i > 0 && recursion::same_list(row, rows[at - 1]) ? rank + 1 : 0;
      if (row.list < 0 || row.visible < 0) {
        all[at] = row;  // check_lists says so
        continue;
      }
      if (row.entry >= 0) {
        if (!check.that(row.visible <= entry_count - 1 - rank && row.list <= entry_count - 1 - rank - row.visible,
                        "rows[%lld] must have room for item %lld of its list, which begins at %lld of %lld",
                        (long long)at, (long long)(row.visible + rank), (long long)row.list, (long long)entry_count))
          return false;
        if (!check.that(row.entry < pool_entries, "rows[%lld].entry must be in -1..%lld, got %d", (long long)at,
                        (long long)pool_entries - 1, row.entry))
          return false;
        lists[row.list + row.visible + rank] = row.entry;
      }
      all[at] = recursion::appended(row, d, int32_t(rank));
    }
  return check_lists(check, "rows", all, depths * count, lists, entry_count, pool_entries);
}

// Temporaries of kernels.
struct Temporaries {
  size_t alive, live, rows, lists, x, gate, choice, gate_scratch, step;

  Temporaries(Layout& layout, const fth_context* ctx, const fth_block_shape& block, const fth_gate_shape* gates,
              const BlockPlan& plan, int64_t count, int64_t entry_count)
      : alive(layout.add<int32_t>(count)),
        live(layout.add<int32_t>(1)),
        rows(layout.add<fth_row>(count)),
        lists(layout.add<int32_t>(FTH_ON_DEVICE(ctx) ? entry_count : 0)),
        x(layout.add<float>(count * block.hidden_size)),
        gate(layout.add<float>(count)),
        choice(layout.add<int32_t>(count)),
        gate_scratch(layout.add<char>(gates == nullptr ? 0 : int64_t(fth::gate_scratch(ctx, *gates, count, false)))),
        step(layout.add<char>(int64_t(step_scratch(ctx, block, plan, count)))) {}
};

// One call of fth_recursion whose arguments are checked. The CPU runs every pass on the rows that take it. On a device
// passes are enqueued for all rows, and kernels leave out those that stopped.
struct Recursion {
  fth_context* ctx;
  const fth_recursion_shape& shape;
  const fth_block_shape& block;
  const fth_gate_shape* gates;
  const BlockPlan& plan;
  int64_t count;
  const fth_row *host_rows, *rows;  // as the host and as kernels read them
  const void *block_weights, *gate_weights;
  int64_t entry_count;
  const int32_t* entry_position;
  kv::Pool pool;
  float* hidden;
  int32_t* passes;
  int32_t* lists;   // as kernels read them
  char* step_host;  // CPU
  const Temporaries& at;
  char* scratch;

  template <class T>
  T* temporary(size_t offset) const { return reinterpret_cast<T*>(scratch + offset); }

  bool weighted() const { return shape.update == FTH_UPDATE_ADD_GATED; }
  const int32_t* live() const { return FTH_ON_DEVICE(ctx) ? temporary<int32_t>(at.live) : nullptr; }

  void run() const {
    if (!FTH_ON_DEVICE(ctx)) memset(passes, 0, size_t(count) * sizeof *passes);
    int64_t n = count;  // rows that kernels are told of
    for (int32_t d = 0; d < shape.depths; d++) {
      const bool asks = gates != nullptr && (d > 0 || weighted());
      if (d == 0) n = select(d, n, false);
      if (asks) {
        gather(n);
        route(d, n);
      }
      if (d > 0) n = select(d, n, asks);
      if (n == 0) return;
      if (d > 0 || !asks) gather(n);
      StepRows step;
      step_of(d, n, &step);
      run_step(ctx, block, plan, step, block_weights, pool, entry_position, temporary<float>(at.x), scratch + at.step);
      update(n);
    }
  }

  // Of n rows, those that take pass d move to the front. Returns how many they are, as far as the host knows.
  int64_t select(int32_t d, int64_t n, bool asked) const {
    const recursion::Select s{.rows = rows + d * count,
                              .choice = asked ? temporary<int32_t>(at.choice) : nullptr,
                              .going = shape.going,
                              .depth = d,
                              .count = count,
                              .alive = temporary<int32_t>(at.alive),
                              .live = temporary<int32_t>(at.live),
                              .gate = asked && weighted() ? temporary<float>(at.gate) : nullptr,
                              .lists = lists,
                              .step = temporary<fth_row>(at.rows),
                              .passes = passes};
    if (FTH_ON_DEVICE(ctx)) {
      recursion::cuda::select(s, ctx->device->queue());
      return n;
    }
    recursion::scalar::select(s);
    return *s.live;
  }

  // Router d about the first n rows of x.
  void route(int32_t d, int64_t n) const {
    fth_gate_shape one = *gates;
    one.depths = 1;
    const int64_t offset = gates->depths == 1 ? 0 : d * Router(ctx, *gates).stride();
    run_gate(ctx, one, n, nullptr, temporary<float>(at.x), static_cast<const char*>(gate_weights) + offset, nullptr,
             {nullptr, nullptr, temporary<float>(at.gate), temporary<int32_t>(at.choice)}, scratch + at.gate_scratch);
  }

  void step_of(int32_t d, int64_t n, StepRows* step) const {
    const fth_row* selected = temporary<fth_row>(at.rows);
    if (!FTH_ON_DEVICE(ctx)) {  // staging, which could fail, does nothing
      step_rows(ctx, block, n, selected, nullptr, lists, entry_count, step_host, step);
      return;
    }
    bool writes = false;
    for (int64_t i = 0; i < count; i++) writes = writes || host_rows[d * count + i].entry >= 0;
    *step = {n, selected, nullptr, lists, nullptr, writes ? n : 0, {}, {}, live()};
    step->all.rows = step->writing.rows = selected;
  }

  // x = the states of the first n.
  void gather(int64_t n) const {
    run_gather(ctx, block.hidden_size, n, live(), temporary<int32_t>(at.alive), hidden, temporary<float>(at.x));
  }

  void update(int64_t n) const {
    const int32_t* alive = temporary<int32_t>(at.alive);
    const float* x = temporary<float>(at.x);
    if (shape.update == FTH_UPDATE_REPLACE)
      run_scatter(ctx, block.hidden_size, n, live(), alive, x, hidden);
    else
      run_scatter_add(ctx, n, live(),
                      {alive, weighted() ? temporary<float>(at.gate) : nullptr, x, hidden, block.hidden_size});
  }
};

}  // namespace
}  // namespace fth

extern "C" fth_status fth_recursion(fth_context* ctx, const fth_recursion_shape* shape, const fth_block_shape* block,
                                    const fth_gate_shape* gate, int64_t count, const fth_row* rows,
                                    const void* block_weights, const void* gate_weights, const int32_t* entries,
                                    int64_t entry_count, const int32_t* entry_position, int64_t pool_entries,
                                    void* pool, float* hidden, int32_t* passes) {
  FTH_ENTER(ctx);
  fth::Check check(ctx);
  if (!fth::check_shape(check, shape, block, gate)) return check.status();
  check.range("count", count, 0, fth::kMostRows / shape->depths);
  check.at_least("entry_count", entry_count, 0);
  const bool any = count > 0;
  check.array("rows", rows, any);
  check.pointer("block_weights", block_weights, fth::BlockPlan::alignment(ctx), any);
  check.pointer("gate_weights", gate_weights, gate == nullptr ? 1 : fth::Router(ctx, *gate).alignment(),
                any && gate != nullptr);
  check.that(gate != nullptr || gate_weights == nullptr, "gate_weights must be null without gate");
  check.array("entries", entries, any && entry_count > 0);
  check.array("entry_position", entry_position, false);
  check.pointer("pool", pool, fth::pool_alignment(ctx), any);
  check.array("hidden", hidden, any);
  check.array("passes", passes, any);
  fth_kv_shape kv;
  if (!fth::check_pool(check, *block, pool_entries, &kv)) return check.status();
  const fth::BlockPlan plan(ctx, *block);
  const int64_t all_rows = shape->depths * count;
  check.disjoint({{"rows", rows, all_rows * int64_t(sizeof(fth_row))},
                  {"block_weights", block_weights, plan.bytes},
                  {"gate_weights", gate_weights, gate == nullptr ? 0 : fth::Router(ctx, *gate).bytes()},
                  {"entries", entries, entry_count * 4},
                  {"entry_position", entry_position, pool_entries * 4}},
                 {{"hidden", hidden, count * block->hidden_size * 4},
                  {"pool", pool, fth::pool_bytes(ctx, kv)},
                  {"passes", passes, count * 4}});
  check.on_host({{"rows", rows}, {"entries", entries}});
  check.on_device({{"block_weights", block_weights}, {"gate_weights", gate_weights}, {"entry_position", entry_position},
                   {"pool", pool}, {"hidden", hidden}, {"passes", passes}});
  if (!check.ok() || !any) return check.status();

  fth::Layout host, kernels;
  const fth::Words words(host, *block, shape->depths, count, entry_count);
  const fth::Temporaries at(kernels, ctx, *block, gate, plan, count, entry_count);
  const int64_t tasks = fth::most_tasks(ctx, *block, gate, shape->depths);
  const size_t tasks_at = kernels.add<fth::gpu::Task>(tasks);
  fth::Scratch scratch;
  if (!fth::reserve(ctx, host, kernels, &scratch)) return FTH_OUT_OF_MEMORY;
  int32_t* lists = reinterpret_cast<int32_t*>(scratch.host + words.lists);
  fth_row* all = reinterpret_cast<fth_row*>(scratch.host + words.rows);
  if (!fth::expect_all(check, shape->depths, count, rows, entries, entry_count, pool_entries, lists, all) ||
      !fth::check_distinct(check, fth::entries_of(rows, all_rows),
                           reinterpret_cast<int32_t*>(scratch.host + words.words)))
    return check.status();
  fth::Recursion recursion{ctx, *shape, *block, gate, plan, count, rows, rows, block_weights, gate_weights, entry_count,
                           entry_position, fth::pool_of(ctx, kv, pool), hidden, passes, lists,
                           scratch.host + words.step, at, scratch.kernels};
  if (FTH_ON_DEVICE(ctx)) {
    // The device appends to a copy; while it is being captured, to one of the lists as they are at each replay.
    const int32_t* items = fth::gpu::capturing(ctx->device->stream()) ? entries : lists;
    const fth_status status =
        fth::stage(ctx, {fth::staged("rows", recursion.rows, all_rows), fth::staged("entries", items, entry_count)});
    if (status != FTH_OK) return status;
    recursion.lists = reinterpret_cast<int32_t*>(scratch.kernels + at.lists);
    fth::gpu::copy(recursion.lists, items, size_t(entry_count) * sizeof *items, ctx->device->stream());
  }
  fth::run_together(ctx, tasks, count, *block, scratch.kernels + tasks_at, [&] { recursion.run(); });
  return fth::finish(ctx);
}
