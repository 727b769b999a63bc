// Statistics of logits without the logits: chunks of a row become partials, the partials of a row merge in order.
//
// Exponentials are taken relative to the largest logit of a chunk, so nothing overflows, and the entropy comes from
// differences of logits, so large logits cost it no digits. The difference of equal infinities counts as 0: a row of
// -inf is uniform, one with +inf is uniform over these. A NaN logit spoils its row: argmax 0, second -1, the rest NaN.
#pragma once
#include <cmath>
#include <cstdint>

#include "fathom/fathom.h"
#include "linear/linear.h"

namespace fth::head {

constexpr int64_t kChunk = 512;  // logits per partial, but on devices

struct Partial {
  int32_t argmax = -1, second = -1;  // -1: none yet
  float top1 = -INFINITY, top2 = -INFINITY;
  float sum = 0;    // of exp(z - top1)
  float slope = 0;  // of (z - top1) exp(z - top1)
};

struct Args {
  float* z;            // row i's logits at z + i * stride; in place: z = softcap(scale * z)
  int64_t stride;
  int64_t columns;     // at most kChunk
  int64_t first;       // id of column 0
  float scale;
  float softcap;       // 0: none
  Partial* partial;    // row i's at partial + i * partial_stride
  int64_t partial_stride;
};

// Rows [begin, end).
using Statistics = void(const Args&, int64_t begin, int64_t end);
namespace scalar { Statistics statistics; }
namespace avx2 { Statistics statistics; }
namespace avx512 { Statistics statistics; }

// All partials of a row, in order. The same for all CPU targets.
fth_head_stats merge(const Partial* partials, int64_t count);

// All pointers on the device.
namespace cuda {
constexpr int64_t kChunk = 64;  // there a strip of W

// Neighbouring chunks of all rows: of any number of columns, from a multiple of kChunk on.
struct Piece {
  Args args;                 // z changes only with `keep`; partial is that of row 0's first chunk in the piece
  bool keep;
  const int32_t* chosen_id;  // [rows, chosen], of the whole vocabulary
  float* chosen_logit;
  int64_t chosen;
};
void statistics(const Piece&, int64_t count, void* stream);  // count at most 65535
// The product and its statistics, without logits: of the whole vocabulary, for rows 0, 1, ...; the bits are the same.
// Needs products of warpgroups (Workspace::wgmma) and W that is not fp32. Each chunk looks at all chosen ids.
void product(const linear::Args& product, const Piece&, const linear::Workspace&, void* stream);
void merge(const Partial* partials, int64_t chunks, int64_t count, fth_head_stats* stats, void* stream);
// z, scale and softcap alone, for `count` logits.
void cap(const Args&, int64_t count, void* stream);
}  // namespace cuda

namespace {

// exp of this is 0, and its product with 0 is too.
constexpr float kFarBelow = -104.f;

// Puts a candidate among the two largest: larger values first, of equal ones the lower id.
inline void insert(Partial& p, float value, int32_t id) {
  const auto before = [&](float other, int32_t other_id) {
    return other_id < 0 || value > other || (value == other && id < other_id);
  };
  if (before(p.top1, p.argmax)) {
    p.top2 = p.top1;
    p.second = p.argmax;
    p.top1 = value;
    p.argmax = id;
  } else if (before(p.top2, p.second)) {
    p.top2 = value;
    p.second = id;
  }
}

// Gives top1 and top2, whose values are known, the ids of the places in `found` that hold them, first + bit, lowest
// first. True when both have one.
inline bool name(Partial& p, const float* z, uint32_t found, int64_t first) {
  for (; found != 0; found &= found - 1) {
    const int bit = __builtin_ctz(found);
    if (p.argmax < 0 && z[bit] == p.top1) p.argmax = int32_t(first + bit);
    else if (p.second < 0 && z[bit] == p.top2) p.second = int32_t(first + bit);
  }
  return p.argmax >= 0 && p.second >= 0;
}

}  // namespace
}  // namespace fth::head
