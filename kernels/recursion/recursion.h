// Which rows take another pass, and what a pass does to their states; on a device, where nobody else decides it.
#pragma once
#include <cstdint>

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
  fth_row* step;    // [count]: the rows of the pass; those from *live on see nothing and write nothing
  int32_t* passes;  // [count]: of those that take it depth + 1
};

struct States {
  const int32_t *alive, *live;
  int64_t count, width;
  float* hidden;      // [.., width]
  float* x;           // [count, width]: row i is that of alive[i]
  const float* gate;  // [count] or null: 1
};

// All pointers on the device.
namespace cuda {
void select(const Select&, void* stream);
void gather(const States&, void* stream);      // x = hidden
void replace(const States&, void* stream);     // hidden = x
void add(const States&, void* stream);         // hidden += gate * x; the product is rounded before it is added
}  // namespace cuda

}  // namespace fth::recursion
