// Weights of a checkpoint into panels, and back.
#include <math.h>

#include "linear.h"
#include "simd/scalar.h"

namespace fth {
namespace {

using linear::kGroup;
using linear::kPanel;

// Row `row` of a source with rows of `columns`. What follows takes a row.
const void* source_row(int32_t type, const void* source, int64_t row, int64_t columns) {
  return static_cast<const char*>(source) + row * source_bytes(type, columns);
}

// A block of a Q8_0 or Q4_0 source.
struct Block {
  uint16_t d;
  const uint8_t* q;
  Block(int32_t type, const void* source, int64_t index) {
    const char* at = static_cast<const char*>(source) + source_bytes(type, index * kGroup);
    memcpy(&d, at, sizeof d);
    q = reinterpret_cast<const uint8_t*>(at) + sizeof d;
  }
  int code(int32_t type, int64_t i) const {
    if (type == FTH_Q8_0) return int8_t(q[i]);
    return (i < 16 ? q[i] & 15 : q[i - 16] >> 4) - 8;
  }
};

// A row of an F8_E4M3 source.
struct F8Row {
  float scale;
  const uint8_t* code;
  explicit F8Row(const void* row) : code(static_cast<const uint8_t*>(row) + sizeof scale) {
    memcpy(&scale, row, sizeof scale);
  }
  float value(int64_t i) const {
    return is_nan_e4m3(code[i]) ? NAN : scale * (256 * float_of_f16(f16_of_e4m3(code[i])));
  }
};

float load(int32_t type, const void* source, int64_t i) {
  if (type == FTH_F32) return static_cast<const float*>(source)[i];
  if (in_blocks(type)) {
    const Block block(type, source, i / kGroup);
    return float_of_f16(block.d) * float(block.code(type, i % kGroup));
  }
  if (type == FTH_F8_E4M3) return F8Row(source).value(i);
  const uint16_t bits = static_cast<const uint16_t*>(source)[i];
  return type == FTH_BF16 ? float_of_bf16(bits) : float_of_f16(bits);
}

// Round to nearest even; beyond the range infinite, NaN stays NaN.
uint16_t f16_of_float(float x) {
  const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (size < 0x38800000)  // subnormal: the sum's last bits are the result, rounded by the addition
    return uint16_t(sign | (bits_of_float(float_of_bits(size) + 0.5f) - 0x3f000000));
  return uint16_t(sign | (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13);
}

// ---- panels of fp32 and bf16 ---------------------------------------------------------------------------------------

// Index of element (column, i) of a panel.
int64_t float_index(int32_t type, int64_t column, int64_t i) {
  return type == FTH_F32 ? i * kPanel + column : (i / 2 * kPanel + column) * 2 + i % 2;
}
int64_t f8_index(int64_t column, int64_t i) { return float_index(FTH_BF16, column, i); }

void store(int32_t type, void* panel, int64_t column, int64_t i, float value) {
  const int64_t at = float_index(type, column, i);
  if (type == FTH_F32) static_cast<float*>(panel)[at] = value;
  else static_cast<uint16_t*>(panel)[at] = bf16_of_float(value);
}

// ---- panels of codes -----------------------------------------------------------------------------------------------

// One feature of a quantised panel: its codes, -128 .. 127 or -8 .. 7, and its scales.
class Column {
 public:
  Column(const WeightShape& shape, void* panel, int64_t column)
      : shape_(shape), panel_(static_cast<uint8_t*>(panel)), column_(column) {}

  int code(int64_t i) const {
    if (shape_.type == FTH_Q4_0) return (high(i) ? *at(i) >> 4 : *at(i) & 15) - 8;
    return *at(i) - 128;
  }
  void set_code(int64_t i, int code) {
    if (shape_.type != FTH_Q4_0) *at(i) = uint8_t(code + 128);
    else if (high(i)) *at(i) = uint8_t((*at(i) & 15) | (code + 8) << 4);
    else *at(i) = uint8_t((*at(i) & 0xf0) | (code + 8));
  }
  float scale(int64_t i) const {
    return shape_.type == FTH_I8 ? *feature_scale() : float_of_f16(*group_scale(i / kGroup));
  }
  float* feature_scale() const { return reinterpret_cast<float*>(panel_ + groups() * kGroup * kPanel) + column_; }
  uint16_t* group_scale(int64_t group) const {
    return reinterpret_cast<uint16_t*>(panel_ + group * group_bytes()) + column_;
  }
  int64_t groups() const { return ceil_div(shape_.in, kGroup); }

 private:
  static bool high(int64_t i) { return i % 8 >= 4; }
  int64_t group_bytes() const {
    return shape_.type == FTH_I8 ? kGroup * kPanel : linear::panel_bytes(shape_.type, kGroup);
  }
  uint8_t* at(int64_t i) const {
    const int64_t scales = shape_.type == FTH_I8 ? 0 : kPanel * 2, per_word = shape_.type == FTH_Q4_0 ? 8 : 4;
    return panel_ + i / kGroup * group_bytes() + scales + (i % kGroup / per_word * kPanel + column_) * 4 + i % 4;
  }

  const WeightShape& shape_;
  uint8_t* panel_;
  int64_t column_;
};

// A code of x / scale; of what is no number 0, and the scale is NaN.
int rounded(float x, int least, int most) {
  return !(x >= float(least)) ? (x < float(least) ? least : 0) : x > float(most) ? most : int(x);
}

// The rules of GGUF files, for 32 values. Q8_0: d = max|v| / 127, q = v / d, halves away from zero. Q4_0: d = v of the
// largest magnitude / -8, so that it becomes -8 exactly, q = floor(v / d + 1/2).
void quantise_group(int32_t type, const float* v, Column& to, int64_t group) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < kGroup; i++) {
    if (fabsf(v[i]) > fabsf(largest)) largest = v[i];
    finite &= isfinite(v[i]) != 0;
  }
  const float d = type == FTH_Q8_0 ? fabsf(largest) / 127 : largest / -8, inverse = d == 0 ? 0 : 1 / d;
  *to.group_scale(group) = finite ? f16_of_float(d) : 0x7e00;
  for (int64_t i = 0; i < kGroup; i++)
    to.set_code(group * kGroup + i, type == FTH_Q8_0 ? rounded(roundf(v[i] * inverse), -127, 127)
                                                     : rounded(v[i] * inverse + 8.5f, 0, 15) - 8);
}

// The largest of n magnitudes; `finite`: whether all are.
template <class F>
float largest_of(int64_t n, bool& finite, F value) {
  float most = 0;
  finite = true;
  for (int64_t i = 0; i < n; i++) {
    const float size = fabsf(value(i));
    if (size > most) most = size;
    finite &= isfinite(size) != 0;
  }
  return most;
}

// A row of the source into a column; null: zeros.
void pack_codes(const WeightShape& shape, Column to, const void* row, float scale, int32_t source_type) {
  const auto value = [&](int64_t i) {
    return row == nullptr || i >= shape.in ? 0.f : load(source_type, row, i) * scale;
  };
  if (shape.type == FTH_I8) {
    bool finite;
    const float most = largest_of(shape.in, finite, value), d = most / 127, inverse = d == 0 ? 0 : 127 / most;
    *to.feature_scale() = finite ? d : NAN;
    for (int64_t i = 0; i < to.groups() * kGroup; i++)
      to.set_code(i, rounded(nearbyintf(value(i) * inverse), -127, 127));
    return;
  }
  for (int64_t group = 0; group < to.groups(); group++) {
    if (row != nullptr && source_type == shape.type && scale == 1) {  // the same codes
      const Block block(source_type, row, group);
      *to.group_scale(group) = block.d;
      for (int64_t i = 0; i < kGroup; i++) to.set_code(group * kGroup + i, block.code(source_type, i));
      continue;
    }
    float v[kGroup];
    for (int64_t i = 0; i < kGroup; i++) v[i] = value(group * kGroup + i);
    quantise_group(shape.type, v, to, group);
  }
}

// The same into a column of f8: codes as they are if the source has them.
void pack_f8(const WeightShape& shape, void* panel, int64_t column, const void* row, float scale,
             int32_t source_type) {
  uint8_t* const codes = static_cast<uint8_t*>(panel);
  float& feature_scale = reinterpret_cast<float*>(codes + shape.panel_bytes())[column - kPanel];
  const auto put = [&](auto code) {
    for (int64_t i = 0; i < round_up(shape.in, 2); i++)
      codes[f8_index(column, i)] = row == nullptr || i >= shape.in ? 0 : code(i);
  };
  if (row != nullptr && source_type == FTH_F8_E4M3) {
    const F8Row from(row);
    bool number = true;
    put([&](int64_t i) {
      number &= !is_nan_e4m3(from.code[i]);
      return from.code[i];
    });
    feature_scale = number ? from.scale * scale * 256 : NAN;
    return;
  }
  const auto value = [&](int64_t i) { return row == nullptr ? 0.f : load(source_type, row, i) * scale; };
  bool finite;
  const float most = largest_of(shape.in, finite, value), inverse = most == 0 ? 0 : 448 / most;
  feature_scale = finite ? most / 448 * 256 : NAN;
  put([&](int64_t i) { return e4m3_of_float(value(i) * inverse); });
}

// ---- devices -------------------------------------------------------------------------------------------------------

// body(source, row, rows) for all rows of a source of `bytes`, as the device reaches it: as it is, or copied there in
// pieces. The last row may be shorter than `row_bytes`.
template <class F>
bool in_pieces(fth_context* ctx, const void* source, int64_t bytes, int64_t row_bytes, F body) {
  const int64_t rows = ceil_div(bytes, row_bytes);
  if (rows == 0) return true;
  if (gpu::reach(source) != gpu::Reach::host) {  // ordinary memory may be gone before the kernels run
    body(source, int64_t(0), rows);
    return true;
  }
  constexpr int64_t kPiece = 16 << 20;
  const int64_t fit = kPiece / row_bytes;
  const int64_t most = fit < 1 ? 1 : fit < rows ? fit : rows;
  char* piece = ctx->reserve_device(size_t(most * row_bytes));
  if (piece == nullptr) return false;
  for (int64_t row = 0; row < rows; row += most) {
    const int64_t n = rows - row < most ? rows - row : most;
    const int64_t at = row * row_bytes, size = n * row_bytes < bytes - at ? n * row_bytes : bytes - at;
    gpu::copy(piece, static_cast<const char*>(source) + at, size_t(size), ctx->device->stream());
    body(piece, row, n);
  }
  return true;
}

bool enqueue_packing(fth_context* ctx, const WeightShape& shape, int64_t first, int64_t count, float scale,
                     int32_t source_type, const void* source, void* packed) {
  linear::Packing p{};
  p.type = shape.type;
  p.source_type = source_type;
  p.k = shape.in;
  p.glu = shape.glu;
  p.scale = scale;
  p.packed = packed;
  const int64_t row_bytes = source_bytes(source_type, shape.in);
  p.source_row_bytes = row_bytes;
  return in_pieces(ctx, source, count * row_bytes, row_bytes, [&](const void* piece, int64_t row, int64_t rows) {
    for (int32_t half = 0; half < (shape.glu ? 2 : 1); half++) {
      const int64_t begin = first + row - half * shape.out, end = begin + rows;
      p.half = half;
      p.first = begin < 0 ? 0 : begin;
      p.count = (end < shape.out ? end : shape.out) - p.first;
      if (p.count <= 0) continue;
      // Whoever packs the last row zeroes those behind it.
      const int64_t features = linear::tiles::features(shape.glu);
      p.padding = p.first + p.count == shape.out ? round_up(shape.out, features) - shape.out : 0;
      p.source = source_row(source_type, piece, p.first - begin, shape.in);
      linear::cuda::pack(p, ctx->device->stream());
    }
  });
}

}  // namespace

bool check_weight_type(Check& check, int32_t type, const char* name) {
  return check.that(type >= FTH_F32 && type <= FTH_F8_E4M3 && type != FTH_F16,
                    "%s must be FTH_F32, FTH_BF16, FTH_I8, FTH_Q8_0, FTH_Q4_0 or FTH_F8_E4M3, got %d", name, type);
}

bool check_source(Check& check, int32_t type, int64_t columns) {
  return check.that(type >= FTH_F32 && type <= FTH_F8_E4M3 && type != FTH_I8,
                    "source_type must be FTH_F32, FTH_BF16, FTH_F16, FTH_Q8_0, FTH_Q4_0 or FTH_F8_E4M3, got %d",
                    type) &&
         check.that(!in_blocks(type) || columns % kGroup == 0,
                    "source_type %d comes in blocks of 32, its rows must be a multiple of that long, got %lld", type,
                    (long long)columns);
}

bool pack_rows(fth_context* ctx, const WeightShape& shape, int64_t first, int64_t count, float scale,
               int32_t source_type, const void* source, void* packed) {
  if (FTH_ON_DEVICE(ctx)) return enqueue_packing(ctx, shape, first, count, scale, source_type, source, packed);
  constexpr int64_t kBlock = 64;  // a block of a panel stays in the L1 cache
  const int64_t panels = ceil_div(shape.out, kPanel), halves = shape.glu ? 2 : 1;
  parallel(ctx, panels * halves, 1, [&](int64_t panel_begin, int64_t panel_end, int) {
    for (int64_t p = panel_begin; p < panel_end; p++) {
      const int64_t first_of_panel = p / halves * kPanel, half = p % halves * shape.out;
      const int64_t columns = shape.out - first_of_panel < kPanel ? shape.out - first_of_panel : kPanel;
      int64_t begin = first - half - first_of_panel, end = begin + count;
      if (begin < 0) begin = 0;
      if (end > columns) end = columns;
      if (begin >= end) continue;
      const int64_t padded = end == columns ? kPanel : end;  // whoever packs the last column zeroes those behind it
      const auto row_of = [&](int64_t column) {
        const int64_t row = half + first_of_panel + column - first;
        return column >= columns ? nullptr : source_row(source_type, source, row, shape.in);
      };
      void* panel = static_cast<char*>(packed) + p * shape.panel_bytes();
      if (quantised(shape.type) || shape.type == FTH_F8_E4M3) {
        for (int64_t column = begin; column < padded; column++) {
          const void* row = row_of(column);
          if (quantised(shape.type)) pack_codes(shape, Column(shape, panel, column), row, scale, source_type);
          else pack_f8(shape, panel, column, row, scale, source_type);
        }
        continue;
      }
      const int64_t stored = shape.type == FTH_BF16 ? round_up(shape.in, 2) : shape.in;
      for (int64_t block = 0; block < stored; block += kBlock)
        for (int64_t column = begin; column < padded; column++) {
          const void* row = row_of(column);
          for (int64_t i = block; i < block + kBlock && i < stored; i++) {
            const bool padding = row == nullptr || i >= shape.in;
            store(shape.type, panel, column, i, padding ? 0 : load(source_type, row, i) * scale);
          }
        }
    }
  });
  return true;
}

void packed_row(const WeightShape& shape, const void* packed, int64_t row, float* out) {
  const int64_t j = row % shape.out, half = row / shape.out;
  const int64_t p = j / kPanel * (shape.glu ? 2 : 1) + half;
  char* panel = static_cast<char*>(const_cast<void*>(packed)) + p * shape.panel_bytes();
  if (quantised(shape.type)) {
    const Column column(shape, panel, j % kPanel);
    for (int64_t i = 0; i < shape.in; i++) out[i] = column.scale(i) * float(column.code(i));
    return;
  }
  if (shape.type == FTH_F8_E4M3) {
    const uint8_t* codes = reinterpret_cast<const uint8_t*>(panel);
    const float scale = reinterpret_cast<const float*>(panel + shape.panel_bytes())[j % kPanel - kPanel];
    for (int64_t i = 0; i < shape.in; i++) out[i] = scale * float_of_f16(f16_of_e4m3(codes[f8_index(j % kPanel, i)]));
    return;
  }
  // Four bytes of every line that a column passes: a pattern that the processor does not follow beyond a page.
  constexpr int64_t kStep = kPanel * 4, kAhead = 32 * kStep;
  const bool bf16 = shape.type == FTH_BF16;
  const char* at = panel + j % kPanel * 4;
  for (int64_t i = 0; i < shape.in; i += bf16 ? 2 : 1, at += kStep) {
    __builtin_prefetch(at + kAhead);
    uint32_t bits;
    memcpy(&bits, at, sizeof bits);
    out[i] = float_of_bits(bf16 ? bits << 16 : bits);
    if (bf16 && i + 1 < shape.in) out[i + 1] = float_of_bits(bits & 0xffff0000u);
  }
}

void convert(int32_t source_type, const void* source, int64_t count, float scale, float* out) {
  for (int64_t i = 0; i < count; i++) out[i] = load(source_type, source, i) * scale;
}

const void* host_source(fth_context* ctx, const void* source, int64_t bytes, void* room) {
  if (source == nullptr || !FTH_ON_DEVICE(ctx) || ctx->device->host_reads(source)) return source;
  gpu::copy(room, source, size_t(bytes), ctx->device->stream());
  gpu::synchronize(ctx->device->stream());
  return room;
}

bool convert(fth_context* ctx, int32_t source_type, const void* source, int64_t count, float scale, float* out) {
  if (!FTH_ON_DEVICE(ctx)) {
    convert(source_type, source, count, scale, out);
    return true;
  }
  const int64_t bytes = source_bytes(source_type, count), group_bytes = source_bytes(source_type, kGroup);
  return in_pieces(ctx, source, bytes, group_bytes, [&](const void* piece, int64_t group, int64_t groups) {
    const int64_t begin = group * kGroup, elements = groups * kGroup < count - begin ? groups * kGroup : count - begin;
    linear::cuda::convert(source_type, piece, elements, scale, out + begin, ctx->device->stream());
  });
}

}  // namespace fth
