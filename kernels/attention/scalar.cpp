#include "../simd/scalar.h"

#include <math.h>

#include "attention.h"

namespace fth::attention::scalar {
namespace {

float rounded(const Args& a, float x) { return a.kv_type == FTH_BF16 ? float_of_bf16(bf16_of_float(x)) : x; }

float element(int32_t type, const void* p, int64_t i) {
  if (type == FTH_I8) return static_cast<const int8_t*>(p)[i];
  return type == FTH_BF16 ? float_of_bf16(static_cast<const uint16_t*>(p)[i]) : static_cast<const float*>(p)[i];
}

// Item `item` of a row's list, in either form.
struct Item {
  const void *k, *v;
  int64_t key;  // list form: its place in the tiles; mask form: -1, k and v are its vectors
  float k_scale, v_scale;
};

Item item_of(const Args& a, const fth_row& row, int64_t item, int64_t kv_head) {
  if (a.masked) {
    const int64_t at = (row.sequence * a.sequence_stride + item * a.token_stride + kv_head * a.head_stride) *
                       kv::element_bytes(a.kv_type);
    return {static_cast<const char*>(a.k) + at, static_cast<const char*>(a.v) + at, -1, 1, 1};
  }
  const int64_t entry = a.entries[row.list + item];
  const char* k = kv::tile(a.pool, entry / kChunk, a.layer, kv_head);
  const char* v = k + kv::k_tile_bytes(a.pool);
  const int64_t key = entry % kChunk;
  if (a.kv_type != FTH_I8) return {k, v, key, 1, 1};
  const float* scales = reinterpret_cast<const float*>(v + kv::v_tile_bytes(a.pool));
  return {k, v, key, scales[key], scales[kChunk + key]};
}

bool sees(const Args& a, const fth_row& row, int64_t item) {
  const int64_t back = row.visible - 1 - item;
  if (item < row.start || back < 0 || (back < 64 && !(row.tree >> back & 1))) return false;
  return !a.masked || a.reach[row.sequence * a.tokens + item] >= row.depth;
}

float bias_of(const Args& a, int64_t i, int64_t head, int64_t item) {
  const fth_row& row = a.rows[i];
  if (a.bias_kind == FTH_BIAS_DENSE) return a.bias[(i * a.heads + head) * a.bias_width + item];
  if (a.bias_kind != FTH_BIAS_RELATIVE) return 0;
  int64_t position = item;
  if (!a.masked && a.entry_position != nullptr) position = a.entry_position[a.entries[row.list + item]];
  int64_t at = position - row.position + a.bias_center;
  at = at < 0 ? 0 : at >= a.bias_width ? a.bias_width - 1 : at;
  return a.bias[head * a.bias_width + at];
}

float score(const Args& a, int64_t i, int64_t head, int64_t item) {
  const float* q = a.q + i * a.q_stride + head * a.head_dim;
  const Item at = item_of(a, a.rows[i], item, head / (a.heads / a.kv_heads));
  float sum = 0;
  for (int64_t d = 0; d < a.head_dim; d++)
    sum += rounded(a, a.scale * q[d]) *
           element(a.kv_type, at.k, at.key < 0 ? d : kv::k_index(a.kv_type != FTH_F32, at.key, d));
  return sum * at.k_scale + bias_of(a, i, head, item);
}

}  // namespace

void whole(const Args& a, const Tile& tile, int64_t part, Workspace& w) {
  const int64_t group = a.heads / a.kv_heads, split = parts_per_group(a), kv_head = part / split;
  const int64_t first = kv_head * group + part % split * group / split;
  const int64_t last = kv_head * group + (part % split + 1) * group / split;
  for (int64_t i = tile.row; i < tile.row + tile.rows; i++)
    for (int64_t head = first; head < last; head++) {
      const fth_row& row = a.rows[i];
      float most = -INFINITY, sum = 0;
      float* out = w.total;
      for (int64_t d = 0; d < a.head_dim; d++) out[d] = 0;
      for (int64_t item = row.start; item < row.visible; item++)
        if (sees(a, row, item)) {
          const float s = score(a, i, head, item);
          if (!(s <= most)) most = s;
        }
      for (int64_t item = row.start; item < row.visible && most != -INFINITY; item++)
        if (sees(a, row, item)) {
          const float weight = expf(score(a, i, head, item) - most);
          const Item at = item_of(a, row, item, kv_head);
          sum += weight;
          for (int64_t d = 0; d < a.head_dim; d++)
            out[d] += rounded(a, weight * at.v_scale) *
                      element(a.kv_type, at.v,
                              at.key < 0 ? d : kv::v_index(a.kv_type != FTH_F32, a.head_dim, at.key, d));
        }
      for (int64_t d = 0; d < a.head_dim; d++) {
        const float y = sum == 0 ? 0.f : out[d] / sum;
        const int64_t to = i * a.out_stride + head * a.head_dim + d;
        if (a.out_bf16) static_cast<uint16_t*>(a.out)[to] = bf16_of_float(y);
        else static_cast<float*>(a.out)[to] = y;
      }
    }
}

}  // namespace fth::attention::scalar
