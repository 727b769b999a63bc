// Which rows take another pass.
#pragma once
#include <cstdint>

#include "cuda/queue.h"
#include "fathom/fathom.h"

namespace fth::recursion {

// Rows that take pass `depth`, in order. A row that appends its entry to its list does so behind those of the rows
// before it that append to the same one.
struct Select {
  const fth_row* rows;    // [count], of this pass: as they are if the row gets there
  const int32_t* choice;  // [*live] or null: all go on
  int32_t going, depth;
  int64_t count;
  int32_t* alive;   // [count]: the first *live take part; in pass 0 all do, and both are written only
  int32_t* live;
  float* gate;      // [count] or null: moves along
  int32_t* lists;   // appended to
  fth_row* step;    // [count]: the rows of the pass; on a device those from *live on see nothing and write nothing
  int32_t* passes;  // [count]: of those that take it depth + 1
};

namespace scalar { void select(const Select&); }
namespace cuda { void select(const Select&, const gpu::Queue&); }  // all pointers on the device

// Both append to one list, if they follow one another.
inline bool same_list(const fth_row& row, const fth_row& before) {
  return row.entry >= 0 && before.entry >= 0 && row.list == before.list;
}
// The row as it is in pass `depth`, with its entry appended behind `rank` others.
inline fth_row appended(const fth_row& row, int32_t depth, int32_t rank) {
  fth_row r = row;
  r.depth = depth;
  if (r.entry >= 0) r.visible += rank + 1;
  return r;
}

}  // namespace fth::recursion
