// The table: one thread per angle. The rotation: one block per row (several where heads are many), a thread takes four
// pairs of a head. Floor: x read and written once.
//
// An angle is reduced to a quarter turn in double, with pi / 2 in two parts, and its sine and cosine are power series
// there: no table of the digits of pi, so no memory of the thread's own, whatever the angle.
#include "cuda/four.h"
#include "rope/rope.h"

namespace fth::rope {
namespace {

using namespace gpu;

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) fill_table(const fth_row* rows, const float* frequency, int64_t pairs,
                                                       float* table, int64_t angles) {
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= angles) return;
  const int64_t row = at / pairs, k = at % pairs;
  constexpr double kQuarters = 0x1.45f306dc9c883p-1;  // 2 / pi
  constexpr double kHigh = 0x1.921fb54442d18p+0, kLow = 0x1.1a62633145c07p-54;  // pi / 2
  const double angle = double(float(rows[row].position) * frequency[k]);
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
  table[row * 2 * pairs + k] = quarter == 1 || quarter == 2 ? -x : x;
  table[row * 2 * pairs + pairs + k] = quarter >= 2 ? -y : y;
}

__global__ void __launch_bounds__(kThreads) rotate(const __grid_constant__ Args a) {
  const int64_t row = blockIdx.x;
  const float *cosine = a.table + row * 2 * a.pairs, *sine = cosine + a.pairs;
  const unsigned heads = unsigned(a.heads), fours = unsigned(a.pairs + 3) / 4;
  const unsigned items = unsigned(a.sets) * heads * fours;
  for (unsigned item = blockIdx.y * kThreads + threadIdx.x; item < items; item += gridDim.y * kThreads) {
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

namespace cuda {

void angles(const fth_row* rows, const float* frequency, int64_t pairs, float* table, int64_t count, Stream stream) {
  const int64_t all = count * pairs;
  launch(fill_table, {dim3(unsigned((all + kThreads - 1) / kThreads)), dim3(kThreads)}, stream, rows, frequency, pairs,
         table, all);
}

void rows(const Args& args, int64_t count, Stream stream) {
  const int64_t items = args.sets * args.heads * ((args.pairs + 3) / 4), blocks = (items + kThreads - 1) / kThreads;
  launch(rotate, {dim3(unsigned(count), unsigned(blocks < 64 ? blocks : 64)), dim3(kThreads)}, stream, args);
}

}  // namespace cuda
}  // namespace fth::rope
