#include "recursion.h"

namespace fth::recursion::scalar {

void select(const Select& s) {
  const int32_t asked = s.depth == 0 ? int32_t(s.count) : *s.live;
  int32_t live = 0, rank = 0;
  for (int32_t i = 0; i < asked; i++) {
    if (s.choice != nullptr && s.choice[i] != s.going) continue;
    const int32_t id = s.depth == 0 ? i : s.alive[i];
    const fth_row& row = s.rows[id];
    rank = live > 0 && same_list(row, s.rows[s.alive[live - 1]]) ? rank + 1 : 0;
    if (row.entry >= 0) s.lists[row.list + row.visible + rank] = row.entry;
    s.step[live] = appended(row, s.depth, rank);
    s.passes[id] = s.depth + 1;
    s.alive[live] = id;
    if (s.gate != nullptr) s.gate[live] = s.gate[i];
    live++;
  }
  *s.live = live;
}

}  // namespace fth::recursion::scalar
