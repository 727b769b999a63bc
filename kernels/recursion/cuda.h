// Selection by one team: a step has few rows, and what it writes is read by every kernel of the pass.
#pragma once
#include "cuda/block_scan.h"
#include "cuda/team.h"
#include "recursion/recursion.h"

namespace fth::recursion {
namespace {

using namespace gpu;

__device__ __forceinline__ bool follows(const fth_row& row, const fth_row& before) {
  return row.entry >= 0 && before.entry >= 0 && row.list == before.list;
}

// The largest v of this thread and those before it.
__device__ __forceinline__ int block_max_scan(int v, int* of_warps) {
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  for (int d = 1; d < 32; d *= 2) {
    const int other = __shfl_up_sync(~0u, v, d);
    if (lane >= d && other > v) v = other;
  }
  team_barrier();  // what of_warps held has been read
  if (lane == 31) of_warps[warp] = v;
  team_barrier();
  for (int w = 0; w < warp; w++)
    if (of_warps[w] > v) v = of_warps[w];
  return v;
}

// The team's shared memory: one int per warp, and one.
__device__ __forceinline__ void select_rows(const Select& s) {
  int* of_warps = shared_memory<int>();
  int* shared = of_warps + kTeam / 32;
  const int thread = int(threadIdx.x);
  // Those that go on move to the front. A place is written after all threads have read theirs, and is never behind it.
  const int asked = s.depth == 0 ? int(s.count) : *s.live;
  int live = 0;
  for (int first = 0; first < asked; first += kTeam) {
    const int i = first + thread;
    const bool goes = i < asked && (s.choice == nullptr || s.choice[i] == s.going);
    const int id = i >= asked || s.depth == 0 ? i : s.alive[i];
    const float gate = i < asked && s.gate != nullptr ? s.gate[i] : 0.f;
    int total;
    const int to = live + block_scan(kTeam, goes ? 1 : 0, of_warps, &total);  // its barriers follow the reads
    if (goes) {
      s.alive[to] = id;
      if (s.gate != nullptr) s.gate[to] = gate;
      s.passes[id] = s.depth + 1;
    }
    live += total;
  }
  team_barrier();
  if (thread == 0) *s.live = live;
  // A row's rank among those that append to its list is its distance from the first of them.
  int carried = 0;
  for (int first = 0; first < int(s.count); first += kTeam) {
    const int i = first + thread;
    fth_row row{};
    bool begins = true;
    if (i < live) {
      row = s.rows[s.alive[i]];
      begins = i == 0 || !follows(row, s.rows[s.alive[i - 1]]);
    }
    int begin = block_max_scan(begins ? i : carried, of_warps);
    if (begin < carried) begin = carried;
    if (i < live) {
      row.depth = s.depth;
      if (row.entry >= 0) {
        const int rank = i - begin;
        s.lists[row.list + row.visible + rank] = row.entry;
        row.visible += rank + 1;
      }
      s.step[i] = row;
    } else if (i < int(s.count)) {
      row.entry = -1;
      s.step[i] = row;
    }
    if (thread == kTeam - 1) *shared = begin;
    team_barrier();
    carried = *shared;
    team_barrier();
  }
}

}  // namespace
}  // namespace fth::recursion
