// The walk over a tile's chunks that the vector targets share. Everything that computes is a static function of V:
//   query   scale * q in the form that scores read; returns its unit (int8, else 1)
//   scores  of n query vectors with the 64 keys of a K tile
//   softmax one step of it: scores become weights, `factor` is what the earlier sums shrink by, int8: `unit` is theirs
//   values  out = out * factor + weights * V tile
//   turn    sixteen rows of words become columns of a K tile
//   scaled, ramp, lookup  64 items' bias, from memory, along a table, or by position
//   axpby, exp2, sum, at_least, put_row: see there
// V::kOnePass: scores and values read a tile from its first byte to its last.
#pragma once
#include <math.h>

#include <cstring>

#include "../kv/run.h"
#include "../simd/scalar.h"
#include "attention.h"

namespace fth::attention {
namespace {

constexpr int kMostRegisterRows = 6;
constexpr float kLog2e = 1.44269504f;
constexpr int64_t kLongTile = 16384;  // bytes; chosen by measurement

// Cache lines to fetch while a tile is worked on: `lines` of them per four steps of the products, from `at` on.
struct Ahead {
  const char* at;
  int lines;
};

// A template argument as an argument.
template <int N>
struct Count {
  static constexpr int value = N;
};

// f(Count<n>{}) for n in 1..kMostRegisterRows.
template <class F>
[[gnu::always_inline]] inline void with_count(int n, F f) {
  switch (n) {
    case 1: return f(Count<1>{});
    case 2: return f(Count<2>{});
    case 3: return f(Count<3>{});
    case 4: return f(Count<4>{});
    case 5: return f(Count<5>{});
    default: return f(Count<6>{});
  }
}

// Query vectors [first, first + n) of a tile, which see the same items of the chunk.
struct Block {
  int32_t first, n;
  uint64_t mask;
};

struct Chunk {
  const void *k, *v;
  const float* scales;  // int8: the keys' scales of K [64] and of V [64]; else null
};

// Positions of a chunk's keys: `first` is item 0's and every other's is one more (`run`), or they are in the workspace,
// from `least` to `most`.
struct Positions {
  bool run;
  int64_t first;
  int32_t least, most;
};

// The part's heads.
struct Heads {
  int64_t kv_head, first, n;
};

Heads heads_of(const Args& a, int64_t part) {
  const int64_t group = a.heads / a.kv_heads, split = parts_per_group(a), kv_head = part / split, at = part % split;
  const int64_t begin = at * group / split, end = (at + 1) * group / split;
  return {kv_head, kv_head * group + begin, end - begin};
}

float* state_sum(float* state) { return state + kLanes; }
float* state_out(float* state) { return state + 2 * kLanes; }
const float* state_sum(const float* state) { return state + kLanes; }
const float* state_out(const float* state) { return state + 2 * kLanes; }

uint64_t reversed(uint64_t x) {
  x = (x >> 1 & 0x5555555555555555) | (x & 0x5555555555555555) << 1;
  x = (x >> 2 & 0x3333333333333333) | (x & 0x3333333333333333) << 2;
  x = (x >> 4 & 0x0f0f0f0f0f0f0f0f) | (x & 0x0f0f0f0f0f0f0f0f) << 4;
  return __builtin_bswap64(x);
}

// Bit j: the row's prefix, window and tree let it see item base + j.
uint64_t seen(const fth_row& row, int64_t base) {
  if (base >= row.visible || base + kChunk <= row.start) return 0;
  if (base + 2 * kChunk <= row.visible && base >= row.start) return ~uint64_t(0);
  uint64_t mask = ~uint64_t(0);
  const int64_t shift = base + kChunk - row.visible;  // bit t of the reversed tree is item visible - 64 + t
  if (shift >= 0) mask = reversed(row.tree) >> shift;
  else if (shift > -kChunk) mask = reversed(row.tree) << -shift | ((uint64_t(1) << -shift) - 1);
  if (row.start > base) mask &= ~uint64_t(0) << (row.start - base);
  return mask;
}

// Copies key `source` of a tile of words (int8: pairs) to key `key` of another.
template <typename Word>
void copy_k(const void* from, int64_t source, int64_t words, int64_t key, void* to) {
  for (int64_t u = 0; u < words; u++)
    static_cast<Word*>(to)[u * kChunk + key] = static_cast<const Word*>(from)[u * kChunk + source];
}
// Copies every second of 2 n elements.
template <typename T>
void copy_of_pairs(const void* from, int64_t n, void* to) {
  for (int64_t c = 0; c < n; c++) static_cast<T*>(to)[2 * c] = static_cast<const T*>(from)[2 * c];
}

// Bits [from, to) of 64, for any from and to.
uint64_t bits(int64_t from, int64_t to) {
  from = from < 0 ? 0 : from;
  to = to > kChunk ? kChunk : to;
  return from < to ? ~uint64_t(0) >> (kChunk - (to - from)) << from : 0;
}

int32_t saturated(int64_t x) { return int32_t(x < INT32_MIN ? INT32_MIN : x > INT32_MAX ? INT32_MAX : x); }

template <class V>
class Walk {
 public:
  Walk(const Args& a, const Tile& tile, int64_t part, Workspace& w)
      : a_(a), tile_(tile), heads_(heads_of(a, part)), w_(w) {}

  void queries() {
    for (int64_t r = 0; r < tile_.rows; r++)
      for (int64_t h = 0; h < heads_.n; h++)
        w_.unit[r * heads_.n + h] =
            V::query(a_.q + (tile_.row + r) * a_.q_stride + (heads_.first + h) * a_.head_dim, a_.scale * kLog2e,
                     a_.head_dim, w_.query + (r * heads_.n + h) * kQueryStride);
  }

  void piece(int64_t piece, float* state) {
    const int64_t vectors = tile_.rows * heads_.n, width = kv::padded(a_.head_dim);
    for (int64_t i = 0; i < vectors; i++) state[i] = -INFINITY;
    memset(w_.sum, 0, size_t(vectors) * 16 * sizeof(float));
    memset(state_out(state), 0, size_t(vectors * width) * sizeof(float));
    const int64_t from = tile_.begin > piece * kPiece ? tile_.begin : piece * kPiece;
    const int64_t to = tile_.end < (piece + 1) * kPiece ? tile_.end : (piece + 1) * kPiece;
    for (int64_t base = from / kChunk * kChunk; base < to; base += kChunk) chunk(base, state);
    for (int64_t i = 0; i < vectors; i++) state_sum(state)[i] = V::sum(w_.sum + i * 16);
  }

 private:
  void chunk(int64_t base, float* state) {
    Block blocks[kVectors];
    const int n = find_blocks(base, blocks);
    if (n == 0) return;
    const Chunk at = a_.masked ? gather_dense(base) : locate(base);
    const int64_t width = kv::padded(a_.head_dim);
    // The processor sees by itself that a list goes on in memory, if tiles are so long that it can run ahead; shorter
    // ones do if each is read once. Else the next chunk's K tile is fetched while this one's is multiplied, likewise V,
    // in equal shares per block. It is taken to be where its first item lies; that is wrong only if items are
    // scattered, and then harmless.
    Chunk next = at;
    int lines = 0;
    if (!a_.masked && base + kChunk < tile_.end) {
      next = page(list()[base + kChunk]);
      const bool goes_on = next.k == static_cast<const char*>(at.k) + kv::page_bytes(a_.pool);
      const bool is_short = kv::k_tile_bytes(a_.pool) <= (n > 1 ? kLongTile : kLongTile / 2);
      const int step = a_.kv_type == FTH_I8 ? 8 : 16;  // lines of a tile that four steps take
      if (is_short || !V::kOnePass || !goes_on) lines = (step + n - 1) / n;
    }
    Positions positions{};
    if (a_.bias_kind == FTH_BIAS_RELATIVE) positions = find_positions(base);
    const int64_t k_share = kv::k_tile_bytes(a_.pool) / n / 64 * 64, v_share = kv::v_tile_bytes(a_.pool) / n / 64 * 64;
    for (int b = 0; b < n; b++) {
      const Block& block = blocks[b];
      float* scores = w_.weight + block.first * kChunk;
      V::scores(block.n, w_.query + block.first * kQueryStride, w_.unit + block.first, at.k, a_.head_dim, scores,
                Ahead{static_cast<const char*>(next.k) + b * k_share, lines});
      const float* bias = nullptr;
      if (a_.bias_kind != FTH_BIAS_NONE) bias = find_bias(base, block, positions);
      V::softmax(block.n, scores, block.mask, at.scales, bias, state + block.first, w_.sum + block.first * 16,
                 w_.factor + block.first, w_.unit + kLanes + block.first);
    }
    for (int b = 0; b < n; b++) {
      const Block& block = blocks[b];
      V::values(block.n, w_.weight + block.first * kChunk, at.v, width, block.mask, w_.factor + block.first,
                w_.unit + kLanes + block.first, state_out(state) + block.first * width,
                Ahead{static_cast<const char*>(next.v) + b * v_share, lines});
    }
  }

  // Groups the tile's query vectors by what they see of the chunk.
  int find_blocks(int64_t base, Block* blocks) {
    int n = 0;
    uint64_t next = mask_of(0, base);
    for (int32_t r = 0; r < tile_.rows;) {
      const uint64_t mask = next;
      int32_t end = r + 1;
      while (end < tile_.rows && (next = mask_of(end, base)) == mask) end++;
      if (mask != 0) {
        const int32_t first = r * int32_t(heads_.n), vectors = (end - r) * int32_t(heads_.n);
        const int32_t count = (vectors + kMostRegisterRows - 1) / kMostRegisterRows;
        for (int32_t b = 0; b < count; b++)
          blocks[n++] = {first + vectors * b / count, vectors * (b + 1) / count - vectors * b / count, mask};
      }
      r = end;
    }
    return n;
  }

  uint64_t mask_of(int32_t r, int64_t base) {
    const fth_row& row = a_.rows[tile_.row + r];
    uint64_t mask = seen(row, base);
    if (a_.masked && mask != 0) {
      const int64_t left = row.visible - base;
      mask &= V::at_least(a_.reach + row.sequence * a_.tokens + base, left < kChunk ? left : kChunk, row.depth);
    }
    return mask;
  }

  // The chunk's items that the tile may look at.
  int64_t first_item(int64_t base) const { return tile_.begin > base ? tile_.begin : base; }
  int64_t last_item(int64_t base) const { return tile_.end < base + kChunk ? tile_.end : base + kChunk; }
  const int32_t* list() const { return a_.entries + a_.rows[tile_.row].list; }

  Chunk page(int64_t entry) const {
    const char* k = kv::tile(a_.pool, entry / kChunk, a_.layer, heads_.kv_head);
    const char* v = k + kv::k_tile_bytes(a_.pool);
    const char* scales = v + kv::v_tile_bytes(a_.pool);
    return {k, v, a_.kv_type == FTH_I8 ? reinterpret_cast<const float*>(scales) : nullptr};
  }

  Chunk locate(int64_t base) {
    const int64_t from = first_item(base), to = last_item(base);
    const int32_t* items = list();
    const int64_t start = items[from] - (from - base);
    bool whole = start >= 0 && start % kChunk == 0;
    for (int64_t i = from; i < to && whole; i++) whole = items[i] == start + (i - base);
    return whole ? page(start) : gather(base, from, to);
  }

  Chunk gather(int64_t base, int64_t from, int64_t to) {
    const bool pairs = a_.kv_type != FTH_F32, int8 = a_.kv_type == FTH_I8;
    const int64_t element = kv::element_bytes(a_.kv_type), words = pairs ? a_.head_dim / 2 : a_.head_dim;
    for (int64_t i = from; i < to; i++) {
      const int64_t entry = list()[i], key = i - base, source = entry % kChunk;
      const Chunk at = page(entry);
      if (int8) copy_k<uint16_t>(at.k, source, words, key, w_.k_tile);
      else copy_k<uint32_t>(at.k, source, words, key, w_.k_tile);
      for (int64_t d = 0; d < a_.head_dim; d += 64) {
        const int64_t width = kv::padded(a_.head_dim) - d < 64 ? kv::padded(a_.head_dim) - d : 64;
        char* to_v = reinterpret_cast<char*>(w_.v_tile) + kv::v_index(pairs, a_.head_dim, key, d) * element;
        const char* from_v = static_cast<const char*>(at.v) + kv::v_index(pairs, a_.head_dim, source, d) * element;
        if (int8) copy_of_pairs<uint8_t>(from_v, width, to_v);
        else if (pairs) copy_of_pairs<uint16_t>(from_v, width, to_v);
        else memcpy(to_v, from_v, size_t(width) * 4);
      }
      if (!int8) continue;
      w_.scales[key] = at.scales[source];
      w_.scales[kChunk + key] = at.scales[kChunk + source];
    }
    return {w_.k_tile, w_.v_tile, int8 ? w_.scales : nullptr};
  }

  // Keys that no row of the tile sees get another's K and V.
  Chunk gather_dense(int64_t base) {
    const bool bf16 = a_.kv_type == FTH_BF16;
    const int64_t bytes = kv::element_bytes(a_.kv_type), step = a_.token_stride * bytes, row = a_.head_dim * bytes;
    const int64_t head = (a_.rows[tile_.row].sequence * a_.sequence_stride + heads_.kv_head * a_.head_stride) * bytes;
    const char *k = static_cast<const char*>(a_.k) + head, *v = static_cast<const char*>(a_.v) + head;
    const int64_t from = first_item(base), to = last_item(base);
    for (int64_t key = (from - base) / kv::kRun * kv::kRun; key < to - base; key += kv::kRun) {
      int64_t at[kv::kRun];
      const char* rows[kv::kRun];
      for (int64_t i = 0; i < kv::kRun; i++) {
        const int64_t item = base + key + i;
        at[i] = (item < from ? from : item < to ? item : to - 1) * step;
        rows[i] = k + at[i];
        if (item + kv::kRun >= tile_.end) continue;
        fetch(rows[i] + kv::kRun * step, row);
        fetch(v + at[i] + kv::kRun * step, row);
      }
      V::turn(rows, row / 4, w_.k_tile + key);
      for (int64_t d = 0; d < a_.head_dim; d += 64) {
        const int64_t width = a_.head_dim - d < 64 ? a_.head_dim - d : 64;
        for (int64_t i = 0; i < kv::kRun; i += bf16 ? 2 : 1) {
          const char* first = v + at[i] + d * bytes;
          const int64_t index = kv::v_index(bf16, a_.head_dim, key + i, d);
          if (bf16)
            kv::interleave(reinterpret_cast<const uint16_t*>(first),
                           reinterpret_cast<const uint16_t*>(v + at[i + 1] + d * bytes), width,
                           reinterpret_cast<uint16_t*>(w_.v_tile) + index);
          else memcpy(w_.v_tile + index, first, size_t(width) * 4);
        }
      }
    }
    return {w_.k_tile, w_.v_tile, nullptr};
  }

  // Inlined, since GCC takes calls of a function that only prefetches for useless.
  [[gnu::always_inline]] static void fetch(const char* row, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 3);
  }

  Positions find_positions(int64_t base) {
    if (a_.masked || a_.entry_position == nullptr) return {true, base, 0, 0};
    const int64_t from = first_item(base), to = last_item(base);
    const int32_t start = a_.entry_position[list()[from]];
    Positions p{true, int64_t(start) - (from - base), start, start};
    for (int64_t i = from; i < to; i++) {
      const int32_t position = a_.entry_position[list()[i]];
      w_.position[i - base] = position;
      p.run &= position == p.first + (i - base);
      p.least = position < p.least ? position : p.least;
      p.most = position > p.most ? position : p.most;
    }
    return p;
  }

  // The bias of a block's vectors, in powers of two as the scores. What items get that they do not see is anything.
  const float* find_bias(int64_t base, const Block& block, const Positions& positions) {
    const int64_t width = a_.bias_width;
    for (int32_t i = block.first; i < block.first + block.n; i++) {
      const int64_t r = tile_.row + i / heads_.n, head = heads_.first + i % heads_.n;
      float* to = w_.bias + i * kChunk;
      if (a_.bias_kind == FTH_BIAS_DENSE) {
        const float* from = a_.bias + (r * a_.heads + head) * width + base;
        V::scaled(from, width - base < kChunk ? width - base : kChunk, to);
        continue;
      }
      const float* table = a_.bias + head * width;
      const int64_t zero = int64_t(a_.rows[r].position) - a_.bias_center;  // the position of the table's first element
      if (positions.run) V::ramp(table, positions.first - zero, width, to);
      else if (positions.most <= zero) V::ramp(table, -kChunk, width, to);
      else if (positions.least >= zero + width - 1) V::ramp(table, width, width, to);
      else V::lookup(table, w_.position, zero, width, to);
    }
    return w_.bias + block.first * kChunk;
  }

  const Args& a_;
  const Tile& tile_;
  const Heads heads_;
  Workspace& w_;
};

// Adds one state to a total. A vector that saw nothing in the piece is left alone: whether such a piece is looked at
// depends on the tile's other rows.
template <class V>
void add_state(const float* state, int64_t vectors, int64_t width, float* total) {
  for (int64_t i = 0; i < vectors; i++) {
    if (state[i] == -INFINITY && state_sum(state)[i] == 0) continue;
    const float most = state[i] > total[i] ? state[i] : total[i], base = most == -INFINITY ? 0.f : most;
    const float old = V::exp2(total[i] - base), fresh = V::exp2(state[i] - base);
    total[i] = most;
    state_sum(total)[i] = state_sum(total)[i] * old + state_sum(state)[i] * fresh;
    V::axpby(old, state_out(total) + i * width, fresh, state_out(state) + i * width, width);
  }
}

void clear_total(int64_t vectors, int64_t width, float* total) {
  for (int64_t i = 0; i < vectors; i++) {
    total[i] = -INFINITY;
    state_sum(total)[i] = 0;
  }
  memset(state_out(total), 0, size_t(vectors * width) * sizeof(float));
}

template <class V>
void merge_states(const Args& a, const Tile& tile, int64_t part, const float* states, int64_t stride, int64_t pieces,
                  bool first, float* total) {
  const int64_t vectors = tile.rows * heads_of(a, part).n, width = kv::padded(a.head_dim);
  if (first) clear_total(vectors, width, total);
  for (int64_t p = 0; p < pieces; p++) add_state<V>(states + p * stride, vectors, width, total);
}

template <class V>
void write_output(const Args& a, const Tile& tile, int64_t part, const float* total) {
  const Heads heads = heads_of(a, part);
  const int64_t width = kv::padded(a.head_dim), element = a.out_bf16 ? 2 : 4;
  for (int64_t r = 0; r < tile.rows; r++)
    for (int64_t h = 0; h < heads.n; h++) {
      const int64_t i = r * heads.n + h, to = (tile.row + r) * a.out_stride + (heads.first + h) * a.head_dim;
      const float sum = state_sum(total)[i];
      V::put_row(state_out(total) + i * width, sum == 0 ? 0.f : 1.f / sum, a.head_dim,
                 static_cast<char*>(a.out) + to * element, a.out_bf16);
    }
}

template <class V>
void whole_tile(const Args& a, const Tile& tile, int64_t part, Workspace& w) {
  const int64_t vectors = tile.rows * heads_of(a, part).n, width = kv::padded(a.head_dim);
  Walk<V> walk(a, tile, part, w);
  walk.queries();
  clear_total(vectors, width, w.total);
  for (int64_t p = tile.begin / kPiece; p * kPiece < tile.end; p++) {
    walk.piece(p, w.piece);
    add_state<V>(w.piece, vectors, width, w.total);
  }
  write_output<V>(a, tile, part, w.total);
}

template <class V>
void one_piece(const Args& a, const Tile& tile, int64_t part, int64_t piece, Workspace& w, float* state) {
  Walk<V> walk(a, tile, part, w);
  walk.queries();
  walk.piece(piece, state);
}

}  // namespace
}  // namespace fth::attention
