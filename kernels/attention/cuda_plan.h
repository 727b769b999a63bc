// Which block reads what. Rows that follow one another, read one list and do not cross a multiple of `tile_rows` are a
// tile; a tile's list is read by pieces (attention.h), by one block in order or, where there is room for the states, by
// a block each. Both give the same bits: states always merge in the order of the list.
#pragma once
#include "attention/attention.h"
#include "cuda/block_scan.h"
#include "cuda/team.h"

namespace fth::attention {
namespace {

using namespace gpu;

struct alignas(16) Item {
  int32_t row, rows;
  int32_t piece, pieces;  // that this item reads
  int32_t begin, end;     // items of the list that the rows see together lie in there
  int32_t state;          // where the piece's state goes, those of the other pieces of the tile beside it; -1: nowhere
  int32_t total;          // pieces of the tile
};

struct PlanArgs {
  const fth_row* rows;
  int32_t count, tile_rows, states;  // states: room for them
  int32_t wide_rows;                 // a multiple of tile_rows, or 0: no wide items
  bool masked;
  Item *items, *wide_items;
  int32_t* item_count;  // [2]: of both
  unsigned* tickets;  // [states, all_parts]: made zero
  int64_t all_parts;
};

// By one team, whose shared memory is one int per warp.
__device__ __forceinline__ void plan_items(const PlanArgs& p) {
  int* of_warps = shared_memory<int>();
  const auto same_list = [&](int i, int j) {
    return p.masked ? p.rows[i].sequence == p.rows[j].sequence : p.rows[i].list == p.rows[j].list;
  };
  int items = 0, wide_items = 0, states = 0;
  for (int first = 0; first < p.count; first += kTeam) {
    const int row = first + int(threadIdx.x);
    Item tile{row, 0, 0, 0, INT32_MAX, 0, -1, 0};
    bool wide = false, leads = row < p.count && (row % p.tile_rows == 0 || !same_list(row, row - 1));
    int next = row / p.tile_rows * p.tile_rows + p.tile_rows;
    if (p.wide_rows > 0 && row < p.count) {
      int begin = row, end = row + 1;  // the run of rows of one list, within a multiple of wide_rows
      while (begin % p.wide_rows != 0 && same_list(begin, begin - 1)) begin--;
      while (end % p.wide_rows != 0 && end < p.count && same_list(end, row)) end++;
      wide = end - begin > p.tile_rows;
      if (wide) {
        leads = row == begin;
        next = end;
      }
    }
    if (leads) {
      for (int i = row; i < min(next, p.count) && same_list(i, row); i++) {
        tile.rows++;
        if (p.rows[i].start >= p.rows[i].visible) continue;
        tile.begin = min(tile.begin, p.rows[i].start);
        tile.end = max(tile.end, p.rows[i].visible);
      }
      if (tile.begin < tile.end) {
        tile.piece = tile.begin / int(kPiece);
        tile.pieces = tile.total = (tile.end - 1) / int(kPiece) + 1 - tile.piece;
      }
    }
    int all;
    const int state = states + block_scan(kTeam, !wide && tile.pieces > 1 ? tile.pieces : 0, of_warps, &all);
    states += min(all, INT32_MAX / 2 - states);
    const bool split = !wide && tile.pieces > 1 && state + tile.pieces <= p.states;
    int at = items + block_scan(kTeam, tile.rows == 0 || wide ? 0 : split ? tile.pieces : 1, of_warps, &all);
    items += all;
    if (tile.rows > 0 && !wide && !split) p.items[at] = tile;
    for (int i = 0; split && i < tile.pieces; i++) {
      Item one = tile;
      one.piece += i;
      one.pieces = 1;
      one.state = state + i;
      p.items[at + i] = one;
    }
    at = wide_items + block_scan(kTeam, tile.rows > 0 && wide, of_warps, &all);
    wide_items += all;
    if (tile.rows > 0 && wide) p.wide_items[at] = tile;
  }
  if (threadIdx.x == 0) {
    p.item_count[0] = items;
    p.item_count[1] = wide_items;
  }
  const int64_t tickets = int64_t(min(states, p.states)) * p.all_parts;
  for (int64_t i = threadIdx.x; i < tickets; i += kTeam) p.tickets[i] = 0;
}

}  // namespace
}  // namespace fth::attention
