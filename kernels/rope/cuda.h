// Angles and rotations of rows.
//
// An angle is reduced to a quarter turn in double, with pi / 2 in two parts, and its sine and cosine are power series
// there: no table of the digits of pi, so no memory of the thread's own, whatever the angle.
#pragma once
#include "cuda/four.h"
#include "cuda/team.h"
#include "rope/rope.h"

namespace fth::rope {
namespace {

using namespace gpu;

// The cosine and sine of pair k.
__device__ __forceinline__ void fill_angle(const cuda::Angles& a, int64_t row, int64_t k) {
  constexpr double kQuarters = 0x1.45f306dc9c883p-1;  // 2 / pi
  constexpr double kHigh = 0x1.921fb54442d18p+0, kLow = 0x1.1a62633145c07p-54;  // pi / 2
  const double angle = double(float(a.rows[row].position) * a.frequency[k]);
  const bool possible = fabs(angle) < 0x1p52;
  const double turns = possible ? rint(angle * kQuarters) : 0;
  const double r = possible ? fma(turns, -kLow, fma(turns, -kHigh, angle)) : NAN, r2 = r * r;
  double sine = -1. / 39916800;
  sine = fma(sine, r2, 1. / 362880);
  sine = fma(sine, r2, -1. / 5040);
  sine = fma(sine, r2, 1. / 120);
  sine = fma(sine, r2, -1. / 6);
  sine = fma(sine * r2, r, r);
  double cosine = 1. / 479001600;
  cosine = fma(cosine, r2, -1. / 3628800);
  cosine = fma(cosine, r2, 1. / 40320);
  cosine = fma(cosine, r2, -1. / 720);
  cosine = fma(cosine, r2, 1. / 24);
  cosine = fma(cosine, r2, -1. / 2);
  cosine = fma(cosine, r2, 1.);
  const int quarter = int(int64_t(turns) & 3);
  const float x = float(quarter % 2 == 0 ? cosine : sine), y = float(quarter % 2 == 0 ? sine : cosine);
  a.table[row * 2 * a.pairs + k] = quarter == 1 || quarter == 2 ? -x : x;
  a.table[row * 2 * a.pairs + a.pairs + k] = quarter >= 2 ? -y : y;
}

// Part `part` of `parts` of a row, by a team: a thread takes four pairs of a head.
__device__ __forceinline__ void rotate_row(const Args& a, int64_t row, unsigned part, unsigned parts) {
  const float *cosine = a.table + row * 2 * a.pairs, *sine = cosine + a.pairs;
  const unsigned heads = unsigned(a.heads), fours = unsigned(a.pairs + 3) / 4;
  const unsigned items = unsigned(a.sets) * heads * fours;
  for (unsigned item = part * kTeam + threadIdx.x; item < items; item += parts * kTeam) {
    const int64_t k = item % fours * 4, left = a.pairs - k;
    const unsigned head = item / fours;
    float* x = a.x + row * a.stride + head / heads * a.set_stride + head % heads * a.head_dim;
    // Where a pair's elements are neighbours, p and q are the first and the last two pairs, else first and second
    // elements.
    float *p_at = x + (a.interleaved ? 2 * k : k), *q_at = a.interleaved ? p_at + 4 : p_at + a.pairs;
    const int64_t p_left = a.interleaved ? 2 * left : left, q_left = a.interleaved ? 2 * left - 4 : left;
    Four p = load_four(p_at, p_left), q = load_four(q_at, q_left);
    if (a.interleaved) {
      const Four first{{p.v[0], p.v[2], q.v[0], q.v[2]}}, second{{p.v[1], p.v[3], q.v[1], q.v[3]}};
      p = first;
      q = second;
    }
    const Four c = load_four(cosine + k, left), s = load_four(sine + k, left);
    for (int i = 0; i < 4; i++) {
      const float turned = __fadd_rn(__fmul_rn(p.v[i], c.v[i]), -__fmul_rn(q.v[i], s.v[i]));
      q.v[i] = __fadd_rn(__fmul_rn(q.v[i], c.v[i]), __fmul_rn(p.v[i], s.v[i]));
      p.v[i] = turned;
    }
    if (a.interleaved) {
      const Four low{{p.v[0], q.v[0], p.v[1], q.v[1]}}, high{{p.v[2], q.v[2], p.v[3], q.v[3]}};
      p = low;
      q = high;
    }
    store_four(p_at, p_left, p);
    store_four(q_at, q_left, q);
  }
}

}  // namespace
}  // namespace fth::rope
