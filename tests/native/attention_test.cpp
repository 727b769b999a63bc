// Attention against the formula in double, on every instruction set and in both forms, with buffers against guard pages
// and not-a-number in every slot that no row may see; and the promises that a row's bits depend on the row alone.
#include "arguments.h"
#include "simd/scalar.h"

using test::Guarded;

namespace {

// Where the items of a list lie in the pool.
enum Placement { kPages, kShifted, kScattered, kMixed };
// Positions of keys for a relative bias: none given, one more per item, gaps between them, any, near the ends of int32.
enum Positions { kIndex, kConsecutive, kGaps, kAny, kExtreme };

struct Shape {
  int32_t heads = 6, kv_heads = 2, head_dim = 64, type = FTH_F32;
  int32_t lists = 2, length = 200;
  Placement placement = kPages;
  int32_t bias = FTH_BIAS_NONE;
  Positions positions = kIndex;
  int32_t width = 123, center = 70;  // of a relative bias
};

constexpr int32_t kLayers = 2, kLayer = 1;

// Lists of random K,V that depend on (list, item) only, so that the same problem can be laid out in several ways.
class Problem {
 public:
  explicit Problem(const Shape& s)
      : shape(s),
        kv{kLayers, s.kv_heads, s.head_dim, s.type, ((s.length + 63) / 64 * s.lists + 1) * 64},
        attention{s.heads, s.bias, 0, s.center, 1.f / sqrtf(float(s.head_dim)), 0},
        row_floats(int64_t(s.kv_heads) * s.head_dim),
        entries(s.lists * s.length),
        position(kv.entries),
        k(int64_t(s.lists) * s.length * row_floats),
        v(k.size()),
        pool(bytes(kv)) {
    test::Random random(11);
    random.fill(k, k.size());
    random.fill(v, v.size());
    place(random);
    for (int64_t e = 0; e < kv.entries; e++) position[e] = INT32_MIN;  // read of no row
    int32_t last = 0;
    for (int64_t i = 0; i < entries.size(); i++) {
      const int32_t item = int32_t(i % s.length);
      last = item == 0 ? 5 : last + 1 + int32_t(random.below(8) / 6 * random.below(40));
      position[entries[i]] = s.positions == kConsecutive ? item - 3
                             : s.positions == kGaps      ? last
                             : s.positions == kAny       ? int32_t(random.below(300))
                             : item % 3 == 0             ? INT32_MAX - item
                                                         : INT32_MIN + item;
    }
    memset(pool, 0xff, size_t(pool.size()));
    test::Context ctx;
    Guarded<fth_row> rows(entries.size());
    for (int64_t i = 0; i < rows.size(); i++) {
      rows[i] = test::row();
      rows[i].entry = entries[i];
    }
    EXPECT_OK(ctx, fth_kv_write(ctx, &kv, kLayer, rows.size(), rows, k, v, pool));
    EXPECT_OK(ctx, fth_kv_read(ctx, &kv, kLayer, entries.size(), entries, pool, k, v));
    if (s.bias == FTH_BIAS_RELATIVE) attention.bias_width = s.width;
    if (s.bias == FTH_BIAS_DENSE) attention.bias_width = s.length;
  }

  fth_status run(fth_context* ctx, int64_t count, const fth_row* rows, const float* q, const float* bias,
                 float* out) const {
    return fth_attention(ctx, &attention, &kv, kLayer, count, rows, q, entries, entries.size(), pool,
                         shape.positions != kIndex ? position.get() : nullptr, bias, out);
  }

  const Shape shape;
  const fth_kv_shape kv;
  fth_attention_shape attention;
  const int64_t row_floats;
  Guarded<int32_t> entries, position;
  Guarded<float> k, v;  // [list, item, kv_heads, head_dim], as the pool holds them
  Guarded<char> pool;

 private:
  static int64_t bytes(const fth_kv_shape& kv) {
    test::Context ctx;
    int64_t n = 0;
    EXPECT_OK(ctx, fth_kv_bytes(ctx, &kv, &n));
    return n;
  }

  void place(test::Random& random) {
    const int64_t pages = kv.entries / 64, chunks = (shape.length + 63) / 64;
    Guarded<int32_t> page(pages), any(kv.entries);
    shuffle(random, page);
    shuffle(random, any);
    for (int64_t l = 0; l < shape.lists; l++)
      for (int64_t i = 0; i < shape.length; i++) {
        const int64_t item = l * shape.length + i, paged = page[l * chunks + i / 64] * 64 + i % 64;
        // Mixed: the last two items of each chunk change places.
        const int64_t partner = i % 64 == 62 && i + 1 < shape.length ? paged + 1 : i % 64 == 63 ? paged - 1 : paged;
        entries[item] = int32_t(shape.placement == kPages     ? paged
                                : shape.placement == kShifted ? item + 7
                                : shape.placement == kMixed   ? partner
                                                              : any[item]);
      }
  }
  static void shuffle(test::Random& random, Guarded<int32_t>& x) {
    for (int64_t i = 0; i < x.size(); i++) x[i] = int32_t(i);
    for (int64_t i = x.size() - 1; i > 0; i--) {
      const int64_t j = random.below(i + 1);
      const int32_t t = x[i];
      x[i] = x[j];
      x[j] = t;
    }
  }
};

bool sees(const fth_row& row, int64_t item) {
  const int64_t back = row.visible - 1 - item;
  return item >= row.start && back >= 0 && (back >= 64 || (row.tree >> back & 1));
}

// Rows of every kind: prefixes, windows, trees, none.
void fill_rows(const Problem& p, test::Random& random, Guarded<fth_row>& rows, bool one_list) {
  for (int64_t i = 0; i < rows.size(); i++) {
    rows[i] = test::row();
    rows[i].list = one_list ? 0 : random.below(p.shape.lists) * p.shape.length;
    rows[i].visible = int32_t(i % 7 == 6 ? 0
                              : one_list ? p.shape.length * (i + 1) / rows.size()
                                         : 1 + random.below(p.shape.length));
    rows[i].position = rows[i].visible - 1;
    if (p.shape.positions == kGaps && rows[i].visible > 0)
      rows[i].position = p.position[p.entries[rows[i].list + rows[i].visible - 1]];
    if (p.shape.positions == kExtreme) rows[i].position = i % 3 == 0 ? INT32_MAX : i % 3 == 1 ? INT32_MIN : 0;
    if (i % 5 == 3) rows[i].start = int32_t(random.below(rows[i].visible + 2));
    if (i % 4 == 2) rows[i].tree = random.bits() | 1;
  }
}

double bias_of(const Problem& p, const float* bias, int64_t i, const fth_row& row, int64_t h, int64_t item,
               bool masked) {
  if (p.shape.bias == FTH_BIAS_DENSE) return bias[(i * p.shape.heads + h) * p.attention.bias_width + item];
  if (p.shape.bias == FTH_BIAS_NONE) return 0;
  const int64_t at = p.shape.positions != kIndex && !masked ? p.position[p.entries[row.list + item]] : item;
  int64_t index = at - row.position + p.attention.bias_center;
  index = index < 0 ? 0 : index >= p.attention.bias_width ? p.attention.bias_width - 1 : index;
  return bias[h * p.attention.bias_width + index];
}

// Compares one call with the formula. `counts(row, item)`: the row sees the item; list l is [length] items of p.k, p.v.
template <class F>
void compare(const Problem& p, int64_t count, const fth_row* rows, const float* q, const float* bias, const float* out,
             bool masked, F counts) {
  const Shape& s = p.shape;
  const bool sixteen = s.type == FTH_I8 && !test::kCuda;  // int8 as the CPU does it: rounding to 16 bits
  const bool rounds = s.type != FTH_F32 && !sixteen;      // to bf16
  Guarded<double> score(s.length);
  for (int64_t i = 0; i < count; i++)
    for (int64_t h = 0; h < s.heads; h++) {
      const fth_row& row = rows[i];
      const int64_t list = masked ? row.sequence : row.list / s.length, g = h / (s.heads / s.kv_heads);
      const float* from = q + (i * s.heads + h) * s.head_dim;
      double most = -INFINITY, error = 0, sum = 0, most_q = 0, seen = 0;
      for (int64_t d = 0; d < s.head_dim; d++) most_q = fmax(most_q, fabs(double(from[d])));
      for (int64_t t = 0; t < s.length; t++) {
        score[t] = -INFINITY;
        if (!counts(row, t)) continue;
        seen++;
        const float* key = p.k + (list * s.length + t) * p.row_floats + g * s.head_dim;
        double dot = 0, size = 0, keys = 0;
        for (int64_t d = 0; d < s.head_dim; d++) {
          dot += double(from[d]) * key[d];
          size += fabs(double(from[d]) * key[d]);
          keys += fabs(double(key[d]));
        }
        score[t] = dot * double(p.attention.scale) + (bias == nullptr ? 0 : bias_of(p, bias, i, row, h, t, masked));
        if (score[t] > most) most = score[t];
        // scale * q is rounded: to bf16 by 2^-9 of an element, to 16 bits by 2^-16 of the largest. fp32 sums of
        // head_dim terms, products with K's scale here and there; the exponent is rounded a few times.
        const double e = double(p.attention.scale) * (size * ((rounds ? 0x1p-9 : 0) + (s.head_dim + 5) * 0x1p-24) +
                                                      (sixteen ? most_q * keys * 0x1.01p-16 : 0)) +
                         (fabs(score[t]) + fabs(most)) * 0x1p-22;
        if (e > error) error = e;
      }
      double weight_sum = 0;
      for (int64_t t = 0; t < s.length; t++) weight_sum += exp(score[t] - (most == -INFINITY ? 0 : most));
      // |v| <= 1. An error of e in every score moves the mean by at most 2e. Weights are rounded: to bf16 by 2^-9 of
      // themselves, to 16 bits by 2^-16 of the largest one there can be. With int8 they are first times V's scale, and
      // they come from an exponential good to 2^-21; sums of `length` terms and a dozen merges.
      const double of_weights = rounds ? 0x1p-8 : sixteen && seen > 0 ? seen * 0x1.01p-16 / weight_sum : 0;
      const double bound = 2.2 * error + of_weights + 0x1p-20 + (s.length + 16) * 0x1p-24;
      for (int64_t d = 0; d < s.head_dim; d++) {
        sum = 0;
        for (int64_t t = 0; t < s.length; t++)
          if (score[t] != -INFINITY)
            sum += exp(score[t] - most) * p.v[(list * s.length + t) * p.row_floats + g * s.head_dim + d];
        const double want = weight_sum == 0 ? 0 : sum / weight_sum, got = out[(i * s.heads + h) * s.head_dim + d];
        EXPECT(fabs(got - want) <= bound, "row %lld head %lld dim %lld of %d, type %d: %g, want %g +- %g", (long long)i,
               (long long)h, (long long)d, s.head_dim, s.type, got, want, bound);
        if (weight_sum == 0) EXPECT(got == 0);
      }
    }
}

int64_t bias_floats(const Problem& p, int64_t count) {
  return p.shape.bias == FTH_BIAS_NONE
             ? 1
             : (p.shape.bias == FTH_BIAS_DENSE ? count : 1) * p.shape.heads * p.attention.bias_width;
}

// A device reads every list by entries, wherever it lies, and has one kernel per type and range of head_dim; where it
// is emulated the shapes are fewer.
bool another_path(Placement placement) { return !test::kCuda || placement == kPages || placement == kScattered; }
bool another_path(int32_t head_dim) {
  for (const int32_t one : {16, 24, 72, 128, 256})
    if (head_dim == one) return true;
  return !test::kCuda;
}

// bf16 and int8 K,V have two variants under AVX-512: with the dot instruction and without.
template <class F>
void for_every_variant(int32_t workers, F body) {
  for (int32_t isa = 0; isa <= test::last_isa(); isa++) {
    test::Context ctx(isa, workers);
    body(ctx);
    fth_context* inner = ctx;
    if (inner->info.bf16_dot) {
      inner->info.bf16_dot = 0;
      body(ctx);
    }
  }
}

void check(const Shape& s, int64_t count, bool one_list) {
  if (!test::sampled(20)) return;
  const Problem p(s);
  for_every_variant(1 + int32_t(count % 2), [&](test::Context& ctx) {
    test::Random random(uint64_t(count * 31 + s.head_dim));
    Guarded<fth_row> rows(count);
    // The bias lies before or behind a guard page: a clamped table is read at both its ends.
    Guarded<float> q(count * s.heads * s.head_dim), out(q.size()), bias(bias_floats(p, count), one_list);
    fill_rows(p, random, rows, one_list);
    random.fill(q, q.size(), 2.f);
    random.fill(bias, bias.size());
    for (int64_t i = 0; i < bias.size() && s.bias == FTH_BIAS_DENSE; i += 5) bias[i] = -INFINITY;
    const float* given = s.bias == FTH_BIAS_NONE ? nullptr : bias.get();
    EXPECT_OK(ctx, p.run(ctx, count, rows, q, given, out));
    compare(p, count, rows, q, given, out, false, sees);
  });
}

void check_bits(Shape s) {
  if (!test::sampled(8)) return;
  const Problem pages(s);
  const int64_t count = test::kCuda ? 16 : 48, row = int64_t(s.heads) * s.head_dim;
  test::Random random(3);
  Guarded<fth_row> rows(count);
  Guarded<float> q(count * row), want(count * row), out(count * row), bias(bias_floats(pages, count));
  const int64_t bias_row = s.bias == FTH_BIAS_DENSE ? s.heads * pages.attention.bias_width : 0;
  random.fill(bias, bias.size());
  // The bias of rows from i on.
  const auto bias_from = [&](int64_t i) { return s.bias == FTH_BIAS_NONE ? nullptr : bias + i * bias_row; };
  fill_rows(pages, random, rows, true);
  for (int64_t i = count * 5 / 8; i < count; i++) rows[i].list = s.length * (i & 1);  // and decode rows of both lists
  random.fill(q, q.size(), 2.f);

  for_every_variant(1, [&](test::Context& ctx) {
    EXPECT_OK(ctx, pages.run(ctx, count, rows, q, bias_from(0), want));
    for (Placement placement : {kShifted, kScattered, kMixed}) {
      if (!another_path(placement)) continue;
      s.placement = placement;
      EXPECT_OK(ctx, Problem(s).run(ctx, count, rows, q, bias_from(0), out));
      EXPECT(memcmp(out, want, size_t(out.size()) * 4) == 0, "placement %d, isa %d", placement,
             ((fth_context*)ctx)->info.isa);
    }
    Guarded<fth_row> backwards(count);
    Guarded<float> q_backwards(count * row), bias_backwards(bias.size());
    bias_backwards.copy_from(bias);
    for (int64_t i = 0; i < count; i++) {
      backwards[i] = rows[count - 1 - i];
      memcpy(q_backwards + i * row, q + (count - 1 - i) * row, size_t(row) * 4);
      memcpy(bias_backwards + i * bias_row, bias + (count - 1 - i) * bias_row, size_t(bias_row) * 4);
    }
    const float* given = s.bias == FTH_BIAS_NONE ? nullptr : bias_backwards.get();
    EXPECT_OK(ctx, pages.run(ctx, count, backwards, q_backwards, given, out));
    for (int64_t i = 0; i < count; i++)
      EXPECT(memcmp(out + i * row, want + (count - 1 - i) * row, size_t(row) * 4) == 0, "row %lld", (long long)i);

    for (int32_t workers : {1, 3}) {
      if (test::kCuda && workers > 1) continue;  // has none
      test::Context alone(((fth_context*)ctx)->info.isa, workers);
      ((fth_context*)alone)->info.bf16_dot = ((fth_context*)ctx)->info.bf16_dot;
      for (int64_t i = 0; i < count; i++)
        EXPECT_OK(alone, pages.run(alone, 1, rows + i, q + i * row, bias_from(i), out + i * row));
      EXPECT(memcmp(out, want, size_t(out.size()) * 4) == 0, "%d workers", workers);
      if (test::kCuda) continue;
      EXPECT_OK(alone, pages.run(alone, count, rows, q, bias_from(0), out));
      EXPECT(memcmp(out, want, size_t(out.size()) * 4) == 0, "%d workers", workers);
    }
  });
}

}  // namespace

TEST(matches_the_formula) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8}) {
    for (int32_t head_dim : {16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128, 256})
      if (another_path(head_dim)) check({.head_dim = head_dim, .type = type, .length = 150}, 9, head_dim % 16 == 0);
    for (int32_t heads : {1, 2, 5, 8, 32, 71}) {
      if (test::kCuda && heads % 2 == 0) continue;
      check({.heads = heads, .kv_heads = 1, .head_dim = 32, .type = type, .length = 70}, 8, true);
      if (!test::kCuda || heads == 5)
        check({.heads = heads, .kv_heads = heads, .head_dim = 32, .type = type, .length = 70}, 8, true);
    }
    for (int32_t length : {1, 2, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1100})
      for (int64_t count : {1, 4})
        check({.heads = 3, .kv_heads = 1, .type = type, .length = length}, count, true);
    for (Placement placement : {kPages, kShifted, kScattered, kMixed})
      for (bool one_list : {false, true})
        if (!test::kCuda || placement == kScattered)
          check({.head_dim = 80, .type = type, .length = 210, .placement = placement}, 33, one_list);
  }
}

// A bias of both kinds, over lists in any place, for every kind of row; tables that are wide, narrow, and beside every
// difference.
TEST(biased_rows_match_the_formula) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8})
    for (bool one_list : {false, true}) {
      for (int32_t head_dim : {16, 40, 64, 128, 256})
        if (another_path(head_dim))
          check({.head_dim = head_dim, .type = type, .length = 150, .bias = FTH_BIAS_DENSE}, 9, one_list);
      for (int32_t length : {1, 63, 64, 65, 129, 530})
        for (int32_t bias : {FTH_BIAS_RELATIVE, FTH_BIAS_DENSE})
          check({.heads = 3, .kv_heads = 3, .type = type, .length = length, .bias = bias}, 10, one_list);
      for (Placement placement : {kPages, kShifted, kScattered, kMixed})
        for (Positions positions : {kIndex, kConsecutive, kGaps, kAny, kExtreme})
          if (another_path(placement) && (!test::kCuda || placement == kScattered || positions == kIndex))
            check({.head_dim = 24, .type = type, .length = 210, .placement = placement, .bias = FTH_BIAS_RELATIVE,
                   .positions = positions}, 13, one_list);
      struct { int32_t width, center; } tables[] = {{1, 0},    {2, 1},       {63, 62}, {64, 63}, {129, 128}, {257, 128},
                                                    {21, 900}, {21, -900}, {21, INT32_MAX}, {21, INT32_MIN}};
      for (const auto& table : tables)
        for (Positions positions : {kIndex, kGaps, kExtreme})
          if (!test::kCuda || positions != kIndex)
            check({.heads = 4, .head_dim = 16, .type = type, .bias = FTH_BIAS_RELATIVE, .positions = positions,
                   .width = table.width, .center = table.center}, 8, one_list);
    }
}

// The bits of every row are the same however its list lies in the pool, however many workers run and whoever is with
// it: in a prefill, alone (a decode step), in another order.
TEST(bits_depend_on_the_row_alone) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8}) {
    for (int32_t heads : {6, 40})
      check_bits({.heads = heads, .kv_heads = heads == 6 ? 2 : 1, .head_dim = 24, .type = type,
                  .length = test::kCuda && heads == 40 ? 600 : 1100});
    check_bits({.head_dim = 24, .type = type, .length = 600, .bias = FTH_BIAS_DENSE});
    for (Positions positions : {kIndex, kConsecutive, kGaps}) {
      if (test::kCuda && positions != kGaps) continue;
      check_bits({.head_dim = 24, .type = type, .length = 600, .bias = FTH_BIAS_RELATIVE, .positions = positions});
    }
  }
}

// Items may be named several times and by several lists; items behind the window's start are not looked at.
TEST(entries_may_be_aliased) {
  Problem p({.heads = 2, .kv_heads = 1, .lists = 2, .length = 130});
  for (int64_t i = 0; i < p.shape.length; i++) {  // list 1 becomes every second item of list 0
    const int64_t item = i / 2 * 2;
    p.entries[p.shape.length + i] = p.entries[item];
    memcpy(p.k + (p.shape.length + i) * p.row_floats, p.k + item * p.row_floats, size_t(p.row_floats) * 4);
    memcpy(p.v + (p.shape.length + i) * p.row_floats, p.v + item * p.row_floats, size_t(p.row_floats) * 4);
  }
  for (int64_t i = 0; i < 10; i++) p.entries[i] = -1;
  for_every_variant(1, [&](test::Context& ctx) {
    Guarded<fth_row> rows(2);
    Guarded<float> q(2 * 2 * 64), out(q.size());
    test::Random(5).fill(q, q.size());
    rows[0] = rows[1] = test::row();
    rows[0].visible = rows[1].visible = p.shape.length;
    rows[0].start = 10;
    rows[1].list = p.shape.length;
    EXPECT_OK(ctx, p.run(ctx, 2, rows, q, nullptr, out));
    compare(p, 2, rows, q, nullptr, out, false, sees);
  });
}

// A value that overflowed reaches the rows that see it and no others, also of the same tile.
TEST(what_a_row_does_not_see_does_not_reach_it) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8}) {
    Problem p({.heads = 3, .kv_heads = 1, .type = type, .lists = 1, .length = 100});
    for_every_variant(2, [&](test::Context& ctx) {
      Guarded<fth_row> rows(100), bad(1);
      Guarded<float> q(100 * 3 * 64), want(q.size()), out(q.size()), k(64), v(64);
      test::Random(5).fill(q, q.size());
      for (int32_t i = 0; i < 100; i++) {
        rows[i] = test::row();
        rows[i].visible = i + 1;
      }
      EXPECT_OK(ctx, p.run(ctx, 100, rows, q, nullptr, want));
      Guarded<char> kept(p.pool.size());
      kept.copy_from(p.pool);
      for (int d = 0; d < 64; d++) {
        k[d] = NAN;
        v[d] = -INFINITY;
      }
      bad[0] = test::row();
      bad[0].entry = p.entries[70];
      EXPECT_OK(ctx, fth_kv_write(ctx, &p.kv, kLayer, 1, bad, k, v, p.pool));
      EXPECT_OK(ctx, p.run(ctx, 100, rows, q, nullptr, out));
      EXPECT(memcmp(out, want, 70 * 3 * 64 * 4) == 0);
      for (int64_t i = 70 * 3 * 64; i < out.size(); i++) EXPECT(isnan(out[i]));

      // Infinite in places: the rows that see it are what they are alone.
      for (int d = 0; d < 64; d++) {
        k[d] = 0;
        v[d] = d % 3 == 0 ? -INFINITY : d % 3 == 1 ? 1.f : NAN;
      }
      EXPECT_OK(ctx, fth_kv_write(ctx, &p.kv, kLayer, 1, bad, k, v, p.pool));
      EXPECT_OK(ctx, p.run(ctx, 100, rows, q, nullptr, out));
      EXPECT(memcmp(out, want, 70 * 3 * 64 * 4) == 0);
      for (int64_t i = 70; i < 100; i += test::kCuda ? 7 : 1) {
        EXPECT_OK(ctx, p.run(ctx, 1, rows + i, q + i * 3 * 64, nullptr, want));
        for (int64_t d = 0; d < 3 * 64; d++) {
          const float in_step = out[i * 3 * 64 + d];
          EXPECT(isnan(want[d]) ? isnan(in_step) : in_step == want[d], "row %lld dim %lld: %g, alone %g", (long long)i,
                 (long long)d, in_step, want[d]);
          if (type != FTH_I8) EXPECT(d % 64 % 3 == 0 ? in_step == -INFINITY : isnan(in_step) == (d % 64 % 3 == 2));
        }
      }
      p.pool.copy_from(kept);
    });
  }
}

TEST(mask_form_matches_the_formula) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t head_dim : {16, 24, 64, 120, 128})
      for (int32_t bias : {FTH_BIAS_NONE, FTH_BIAS_RELATIVE, FTH_BIAS_DENSE}) {
        if (!another_path(head_dim) || !test::sampled(8)) continue;
        const Shape s{
            .heads = 6, .kv_heads = 2, .head_dim = head_dim, .type = type, .lists = 3, .length = 170, .bias = bias};
        const Problem p(s);
        const int64_t count = test::kCuda ? 24 : 40, gap = 8;  // between the heads of a token
        const fth_dense_kv_shape kv{s.lists,
                                    s.length,
                                    s.kv_heads,
                                    head_dim,
                                    type,
                                    0,
                                    s.length * s.kv_heads * (head_dim + gap),
                                    s.kv_heads * (head_dim + gap),
                                    head_dim + gap};
        const int64_t elements = int64_t(s.lists) * kv.sequence_stride - gap, width = type == FTH_BF16 ? 2 : 4;
        Guarded<char> k(elements * width), v(elements * width);
        Guarded<int32_t> reach(s.lists * s.length);
        Guarded<fth_row> rows(count);
        Guarded<float> q(count * s.heads * head_dim), out(q.size()), given(bias_floats(p, count));
        test::Random random(9);
        random.fill(q, q.size(), 2.f);
        random.fill(given, given.size());
        fill_rows(p, random, rows, true);
        memset(k, 0xff, size_t(k.size()));
        memset(v, 0xff, size_t(v.size()));
        for (int64_t t = 0; t < reach.size(); t++) {
          reach[t] = t / 64 % 4 == 2 ? -1 : int32_t(random.below(4)) - 1;  // chunks without K,V among others
          for (int64_t h = 0; h < s.kv_heads && reach[t] >= 0; h++)
            for (int64_t d = 0; d < head_dim; d++) {
              const int64_t at = t * kv.token_stride + h * kv.head_stride + d,
                            from = (t * s.kv_heads + h) * head_dim + d;
              if (type == FTH_BF16) {
                reinterpret_cast<uint16_t*>(k.get())[at] = bf16_of_float(p.k[from]);
                reinterpret_cast<uint16_t*>(v.get())[at] = bf16_of_float(p.v[from]);
              } else {
                reinterpret_cast<float*>(k.get())[at] = p.k[from];
                reinterpret_cast<float*>(v.get())[at] = p.v[from];
              }
            }
        }
        for (int64_t i = 0; i < count; i++) {
          rows[i].sequence = int32_t(i / 7 % s.lists);
          rows[i].depth = int32_t(random.below(3));
        }
        const float* bias_or_null = bias == FTH_BIAS_NONE ? nullptr : given.get();
        Guarded<float> alone(out.size());
        for_every_variant(2, [&](test::Context& ctx) {
          EXPECT_OK(ctx, fth_attention_masked(ctx, &p.attention, &kv, count, rows, q, k, v, reach, bias_or_null, out));
          compare(p, count, rows, q, bias_or_null, out, true, [&](const fth_row& row, int64_t t) {
            return sees(row, t) && reach[row.sequence * s.length + t] >= row.depth;
          });
          const int64_t row = s.heads * head_dim;
          for (int64_t i = 0; i < count; i++)
            EXPECT_OK(ctx, fth_attention_masked(
                               ctx, &p.attention, &kv, 1, rows + i, q + i * row, k, v, reach,
                               bias == FTH_BIAS_DENSE ? given + i * s.heads * p.attention.bias_width : bias_or_null,
                               alone + i * row));
          EXPECT(memcmp(alone, out, size_t(out.size()) * 4) == 0);
        });
      }
}

namespace {

void refuses_shapes(test::Arguments& a, fth_attention_shape* s) {
  a.range("shape.heads", s->heads, 1, 65536);
  a.refused("shape.heads must be a multiple of kv.kv_heads (2), got 5", s->heads, 5);
  a.range("shape.bias_kind", s->bias_kind, 0, 2);
  if (s->bias_kind == FTH_BIAS_NONE) a.range("shape.bias_width", s->bias_width, 0, 0);
  else a.refused("shape.bias_width must be at least 1, got 0", s->bias_width, 0);
  a.finite("shape.scale", s->scale);
  a.range("shape.reserved", s->reserved, 0, 0);
}

// For a shape without bias: none may be given. For one with: it is as large as memory can be.
void refuses_bias(test::Arguments& a, fth_attention_shape* s, int64_t& count) {
  if (s->bias_kind == FTH_BIAS_NONE) return;
  const fth_attention_shape before = *s;
  s->bias_kind = FTH_BIAS_NONE;
  s->bias_width = 0;
  EXPECT_REFUSED_AS(a.ctx, "bias must be null without shape.bias_kind", a.call(a.ctx));
  *s = before;
  if (s->bias_kind != FTH_BIAS_DENSE) return;
  s->heads = 65536;
  count = 1 << 24;
  a.refused("bias must have at most 2^56 bytes", s->bias_width, INT32_MAX);
  *s = before;
  count = 3;
  a.refused("rows[0].visible must be at most shape.bias_width 69, got 70", s->bias_width, 69);
}

}  // namespace

TEST(lists_keep_to_their_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16, FTH_I8})
    for (int32_t bias_kind : {FTH_BIAS_NONE, FTH_BIAS_RELATIVE, FTH_BIAS_DENSE})
      for (int32_t head_dim : {16, 24, 72})
        for (int32_t length : {1, 70, 130}) {
          if ((head_dim != 24 || length != 70) && !test::sampled(20)) continue;
          const int32_t heads = 6, pages = 4;
          int64_t count = 3, entry_count = 2 * length, bytes = 0;
          int32_t layer = 1;
          const fth_kv_shape pool_shape{2, 2, head_dim, type, pages * 64};
          test::Arguments a;
          EXPECT_OK(a.ctx, fth_kv_bytes(a.ctx, &pool_shape, &bytes));
          const bool relative = bias_kind == FTH_BIAS_RELATIVE, dense = bias_kind == FTH_BIAS_DENSE;
          const int32_t width = relative ? 21 : dense ? length : 0;
          const auto shape = a.shape<fth_attention_shape>({heads, bias_kind, width, 15, 0.2f, 0});
          const auto kv = a.shape(pool_shape, "kv");
          const auto rows = a.input<fth_row>("rows", count);
          const auto q = a.input<float>("q", count * heads * head_dim);
          const auto entries = a.input<int32_t>("entries", entry_count);
          const auto pool = a.packed("pool", bytes, test::kStored);
          const auto position = a.optional<int32_t>("entry_position", pool_shape.entries);
          const auto bias = a.input<float>("bias", (dense ? count : 1) * heads * width);
          const auto out = a.output<float>("out", count * heads * head_dim);
          a.random.fill(q, q.size());
          a.random.fill(bias, bias.size());
          for (int64_t i = 0; i < position.size(); i++) position[i] = int32_t(i);
          // The first list is pages in order, the second scattered.
          for (int32_t i = 0; i < length; i++) {
            entries[i] = i;
            entries[length + i] = 255 - i * 37 % 256;
          }
          for (int32_t i = 0; i < count; i++) {
            rows[i] = test::row();
            rows[i].list = i == 2 ? length : 0;
            rows[i].visible = i == 1 ? (length + 1) / 2 : length;
            rows[i].position = length - i;
          }
          a.call = [&](fth_context* ctx) {
            return fth_attention(ctx, shape, kv, layer, count, rows, q, entries, entry_count, pool, position,
                                 bias_kind == FTH_BIAS_NONE ? nullptr : bias.now(), out);
          };
          a.guards();
          if (head_dim != 24 || length != 70) continue;
          a.refusals();
          a.nothing(count);
          refuses_shapes(a, shape);
          a.call = [&](fth_context* ctx) {
            return fth_attention(ctx, shape, kv, layer, count, rows, q, entries, entry_count, pool, position, bias,
                                 out);
          };
          refuses_bias(a, shape, count);
          if (bias_kind == FTH_BIAS_NONE) continue;
          a.range("kv.layers", kv->layers, 1, 65536);
          a.range("layer", layer, 0, 1);
          a.range("count", count, 0, INT32_MAX / 64);
          a.range("entry_count", entry_count, 0, int64_t(1) << 48);
          a.refused("rows[1].visible must be at least 0, got -1", rows[1].visible, -1);
          a.refused("rows[1].start must be at least 0, got -1", rows[1].start, -1);
          const char* const outside = "rows[1].list and visible must stay inside the 140 entries, got list";
          for (int64_t list : {int64_t(-1), int64_t(106), int64_t(141), INT64_MAX})
            a.refused(outside, rows[1].list, list);
          a.refused(outside, rows[1].visible, 141);
          a.range("entries[69]", entries[69], 0, 255);
          a.range("entries[70]", entries[70], 0, 255);
          // Items that no row sees may be anything.
          rows[0].start = rows[1].start = 6;
          entries[5] = -1;
          EXPECT_OK(a.ctx, a.call(a.ctx));
          a.refused("entries[5] must be in 0..255, got -1", rows[1].start, 5);
        }
}

TEST(masks_keep_to_their_arguments) {
  for (int32_t type : {FTH_F32, FTH_BF16})
    for (int32_t bias_kind : {FTH_BIAS_NONE, FTH_BIAS_RELATIVE, FTH_BIAS_DENSE})
      for (int32_t head_dim : {16, 24, 72})
        for (int32_t tokens : {1, 70, 130}) {
          if ((head_dim != 24 || tokens != 70) && !test::sampled(20)) continue;
          const int32_t heads = 6, sequences = 2, element = type == FTH_F32 ? 4 : 2;
          int64_t count = 3;
          test::Arguments a;
          const bool relative = bias_kind == FTH_BIAS_RELATIVE, dense = bias_kind == FTH_BIAS_DENSE;
          const int32_t width = relative ? 21 : dense ? tokens : 0;
          const int64_t token = 2 * head_dim + 5, elements = (2 * tokens - 1) * token + 2 * head_dim;
          const auto shape = a.shape<fth_attention_shape>({heads, bias_kind, width, 15, 0.2f, 0});
          const auto kv = a.shape<fth_dense_kv_shape>(
              {sequences, tokens, 2, head_dim, type, 0, tokens * token, token, head_dim}, "kv");
          const auto rows = a.input<fth_row>("rows", count);
          const auto q = a.input<float>("q", count * heads * head_dim);
          const auto k = a.packed("k", elements * element, element);
          const auto v = a.packed("v", elements * element, element);
          const auto reach = a.input<int32_t>("reach", sequences * tokens);
          const auto bias = a.input<float>("bias", (dense ? count : 1) * heads * width);
          const auto out = a.output<float>("out", count * heads * head_dim);
          a.random.fill(q, q.size());
          a.random.fill(bias, bias.size());
          for (int64_t i = 0; i < reach.size(); i++) reach[i] = int32_t(i * 7 % 4) - 1;
          reach[0] = reach[reach.size() - 1] = 3;
          for (int32_t i = 0; i < count; i++) {
            rows[i] = test::row();
            rows[i].sequence = i == 2;
            rows[i].depth = i;
            rows[i].visible = i == 1 ? (tokens + 1) / 2 : tokens;
            rows[i].position = tokens - i;
          }
          a.call = [&](fth_context* ctx) {
            return fth_attention_masked(ctx, shape, kv, count, rows, q, k, v, reach,
                                        bias_kind == FTH_BIAS_NONE ? nullptr : bias.now(), out);
          };
          a.guards();
          if (head_dim != 24 || tokens != 70) continue;
          a.refusals();
          a.nothing(count);
          refuses_shapes(a, shape);
          a.call = [&](fth_context* ctx) {
            return fth_attention_masked(ctx, shape, kv, count, rows, q, k, v, reach, bias, out);
          };
          refuses_bias(a, shape, count);
          if (bias_kind == FTH_BIAS_NONE) continue;
          a.refused("kv.head_dim must be a multiple of 8 in 16..256, got 12", kv->head_dim, 12);
          for (int32_t bad : {-1, 2, int(FTH_I8), 4})
            a.refused("kv.type must be FTH_F32 or FTH_BF16, got", kv->type, bad);
          a.refused("kv.sequences must be at least 0, got -1", kv->sequences, -1);
          a.refused("kv.tokens must be at least 0, got -1", kv->tokens, -1);
          a.range("kv.reserved", kv->reserved, 0, 0);
          a.range("kv.sequence_stride", kv->sequence_stride, 0, int64_t(1) << 48);
          a.range("kv.token_stride", kv->token_stride, 0, int64_t(1) << 48);
          a.range("kv.head_stride", kv->head_stride, 0, int64_t(1) << 48);
          const fth_dense_kv_shape good = *kv.get();
          kv->sequences = INT32_MAX;
          a.refused("kv.sequences * kv.tokens must be at most 2^54", kv->tokens, INT32_MAX);
          kv->sequences = 1 << 10;
          a.refused("kv's strides describe more than 2^56 elements", kv->sequence_stride, int64_t(1) << 48);
          *kv.get() = good;
          a.range("count", count, 0, INT32_MAX / 64);
          a.range("rows[1].sequence", rows[1].sequence, 0, 1);
          a.range("rows[1].visible", rows[1].visible, 0, 70);
          a.refused("rows[1].start must be at least 0, got -1", rows[1].start, -1);
          a.refused("rows[1].depth must be at least 0, got -1", rows[1].depth, -1);
        }
}

TEST(no_rows_is_no_work) {
  test::Context ctx;
  const Problem p({.heads = 2, .kv_heads = 1, .head_dim = 16, .lists = 1, .length = 1});
  EXPECT_OK(ctx, p.run(ctx, 0, nullptr, nullptr, nullptr, nullptr));
}
