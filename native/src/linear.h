// Packed weights and products with them, for the operations that are built on linear layers. Nothing here allocates or
// checks arguments: callers did.
#pragma once
#include "context.h"
#include "linear/linear.h"
#include "linear/tiles.h"

namespace fth {

inline int64_t element_bytes(int32_t type) { return type == FTH_F32 ? 4 : 2; }
// Products with such weights read x in codes; with bf16 and f8 they read it in bf16.
inline bool quantised(int32_t type) { return type == FTH_I8 || type == FTH_Q8_0 || type == FTH_Q4_0; }
inline bool reads_bf16(int32_t type) { return type == FTH_BF16 || type == FTH_F8_E4M3; }
// Source types that come in blocks of 32, which rows must be a multiple of.
inline bool in_blocks(int32_t type) { return type == FTH_Q8_0 || type == FTH_Q4_0; }
// Bytes of a row of a checkpoint's tensor (rows of f8 begin with their scale), and the alignment that the CPU's packed
// weights and the tensor need.
inline int64_t source_bytes(int32_t type, int64_t columns) {
  if (type == FTH_F8_E4M3) return 4 + columns;
  return in_blocks(type) ? columns / 32 * (type == FTH_Q8_0 ? 34 : 18) : columns * element_bytes(type);
}
inline size_t alignment(int32_t type) { return type == FTH_F32 || type == FTH_I8 || type == FTH_F8_E4M3 ? 4 : 2; }
inline size_t source_alignment(int32_t type) { return type == FTH_F8_E4M3 ? 1 : alignment(type); }

// Bytes from row to row of a contiguous x as weights of `type` read it. On a device rows of bf16 are zero up to there.
inline int64_t x_bytes(int64_t in, int32_t type) {
  if (quantised(type)) return linear::units(in) * linear::kUnitBytes;
  return reads_bf16(type) ? round_up(in, 8) * 2 : in * 4;
}
// LoRA pairs are fp32 with fp32 weights, else bf16.
inline int32_t lora_type(int32_t weight_type) { return weight_type == FTH_F32 ? FTH_F32 : FTH_BF16; }

// One weight matrix, [out, in], or [2 out, in] with glu. Packed in panels (linear/linear.h), or in strips
// (linear/tiles.h) for the kernels of a CUDA context: whoever makes a shape sets `strips` to FTH_ON_DEVICE(ctx).
struct WeightShape {
  int64_t in, out;
  int32_t type;
  bool glu, strips;

  int64_t rows() const { return glu ? 2 * out : out; }
  int64_t panel_bytes() const { return linear::panel_bytes(type, in); }
  int64_t bytes() const {
    return strips ? linear::tiles::strips(out, glu) * linear::tiles::strip_bytes(type, in)
                  : ceil_div(out, linear::kPanel) * (glu ? 2 : 1) * panel_bytes();
  }
  // Of the packed weights.
  size_t alignment() const { return strips ? size_t(linear::tiles::kAlignment) : fth::alignment(type); }
};

// A legal weight type; a legal type of a source whose rows are `columns` long.
bool check_weight_type(Check& check, int32_t type, const char* name = "shape.weight_type");
bool check_source(Check& check, int32_t type, int64_t columns);

// Packs rows first .. first + count - 1 of W from source [count, in] of source_type, times scale. On a device the work
// is enqueued and uses the scratch there if the device does not reach the source; false without memory for it.
bool pack_rows(fth_context* ctx, const WeightShape& shape, int64_t first, int64_t count, float scale,
               int32_t source_type, const void* source, void* packed);
// Row `row` of W as fp32, from panels.
void packed_row(const WeightShape& shape, const void* packed, int64_t row, float* out);
// Elements of a checkpoint's tensor as fp32, times scale.
void convert(int32_t source_type, const void* source, int64_t count, float scale, float* out);
// The same into memory that kernels of this context read; as pack_rows.
bool convert(fth_context* ctx, int32_t source_type, const void* source, int64_t count, float scale, float* out);

// A source that the host is to read: itself, or, if only a device reads it, a copy in `room`. Then it waits for that.
const void* host_source(fth_context* ctx, const void* source, int64_t bytes, void* room);

// LoRA pairs of one linear in one buffer: for each depth A [rank, in], then B [w_rows, rank], each packed. In strips
// the rows of B lie as those of W.
struct LoraShape {
  int64_t in, rank, w_rows;
  int32_t type, depths;
  bool glu, strips;

  LoraShape() = default;
  LoraShape(const WeightShape& w, int64_t rank, int32_t depths)
      : in(w.in), rank(rank), w_rows(w.rows()), type(lora_type(w.type)), depths(depths), glu(w.glu), strips(w.strips) {}
  WeightShape a() const { return {in, rank, type, false, strips}; }
  WeightShape b() const {
    return strips && glu ? WeightShape{rank, w_rows / 2, type, true, true}
                         : WeightShape{rank, w_rows, type, false, strips};
  }
  int64_t a_offset(int64_t depth) const { return depth * (a().bytes() + b().bytes()); }
  int64_t b_offset(int64_t depth) const { return a_offset(depth) + a().bytes(); }
  int64_t bytes() const { return a_offset(depths); }
};

// The rows of a call by depth: group d is order[begin[d]] .. order[begin[d + 1] - 1]. On a device kernels look depths
// up in `rows`, an address there indexed as x is, and the rest is not read: callers give DepthGroups{.rows = staged
// rows}, also for a product on listed rows, and do not group.
struct DepthGroups {
  const int32_t* order;
  const int32_t* begin;  // [depths + 1]
  int32_t depths;
  const fth_row* rows;  // on a device only
};
// Groups the rows named by subset [count], or rows 0 .. count - 1 if it is null. order [count], begin [depths + 1].
DepthGroups group_by_depth(const fth_row* rows, const int32_t* subset, int64_t count, int32_t depths, int32_t* order,
                           int32_t* begin);

// A linear layer with LoRA: product.addend is set by run_linears. The scratch is indexed by row as y is: `rows` is one
// more than the highest row. Devices add to the product itself.
struct LoraScratch {
  size_t inner, addend;
  LoraScratch(Layout& layout, const LoraShape& shape, int64_t rows)
      : inner(layout.add<char>(rows * x_bytes(shape.rank, shape.type))),
        addend(layout.add<float>(shape.strips ? 0 : rows * shape.w_rows)) {}
};
struct LinearCall {
  linear::Args product;
  const void* lora;  // packed pairs; null: none, and nothing below is read
  const void* lora_x;
  LoraShape lora_shape;
  void* lora_inner;           // scratch + LoraScratch.inner
  float* lora_addend;         // scratch + LoraScratch.addend
  const DepthGroups* groups;  // of the same rows as product.rows
};

// Runs linears that do not depend on one another: one parallel region, or three if any has LoRA. On a device all
// pointers of the calls are to memory there, row lists included.
void run_linears(fth_context* ctx, LinearCall* calls, int count);

// Rows of x as products with weights of one type read them: x itself, rounded to bf16, or in codes; and for the LoRA
// pairs beside quantised weights rounded as well.
struct Input {
  const void* x;
  const void* lora_x;
};
// Scratch for it, up to `in` wide. With a norm in front there is room for the normed rows too.
struct InputScratch {
  size_t x, rounded, normed;
  bool lora;
  InputScratch(Layout& layout, int64_t in, int32_t weight_type, int64_t rows, bool norm, bool lora)
      : x(layout.add<char>(norm || weight_type != FTH_F32 ? rows * x_bytes(in, weight_type) : 0)),
        rounded(layout.add<char>(quantised(weight_type) && lora ? rows * x_bytes(in, FTH_BF16) : 0)),
        normed(layout.add<float>(quantised(weight_type) && norm ? rows * in : 0)),
        lora(lora) {}
};
Input input_of(fth_context* ctx, const float* x, int64_t in, int32_t weight_type, int64_t count,
               const InputScratch& at, char* scratch);

// The single-threaded kernel, for operations that split the work themselves.
linear::Panels* panels_kernel(const fth_context* ctx, int32_t weight_type);

}  // namespace fth
