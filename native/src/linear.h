// Packed weights and products with them, for the operations that are built on linear layers. Nothing here allocates or
// checks arguments: callers did.
#pragma once
#include "context.h"
#include "linear/linear.h"

namespace fth {

inline int64_t element_bytes(int32_t type) { return type == FTH_F32 ? 4 : 2; }
// Elements from row to row of a contiguous x that is multiplied by weights of `type`.
inline int64_t x_stride(int64_t in, int32_t type) { return type == FTH_BF16 ? round_up(in, 2) : in; }

// One weight matrix, [out, in], or [2 out, in] with glu.
struct WeightShape {
  int64_t in, out;
  int32_t type;  // FTH_F32 or FTH_BF16
  bool glu;

  int64_t rows() const { return glu ? 2 * out : out; }
  int64_t panel_bytes() const { return x_stride(in, type) * linear::kPanel * element_bytes(type); }
  int64_t bytes() const { return ceil_div(out, linear::kPanel) * (glu ? 2 : 1) * panel_bytes(); }
};

// Packs rows first .. first + count - 1 of W from source [count, in] of source_type, times scale.
void pack_rows(fth_context* ctx, const WeightShape& shape, int64_t first, int64_t count, float scale,
               int32_t source_type, const void* source, void* packed);
// Row `row` of W as fp32.
void packed_row(const WeightShape& shape, const void* packed, int64_t row, float* out);
// Elements of a checkpoint's tensor (FTH_F32, FTH_BF16 or FTH_F16) as fp32, times scale.
void convert(int32_t source_type, const void* source, int64_t count, float scale, float* out);

// LoRA pairs of one linear in one buffer: for each depth A [rank, in], then B [w_rows, rank], each packed.
struct LoraShape {
  int64_t in, rank, w_rows;
  int32_t type, depths;

  WeightShape a() const { return {in, rank, type, false}; }
  WeightShape b() const { return {rank, w_rows, type, false}; }
  int64_t a_offset(int64_t depth) const { return depth * (a().bytes() + b().bytes()); }
  int64_t b_offset(int64_t depth) const { return a_offset(depth) + a().bytes(); }
  int64_t bytes() const { return a_offset(depths); }
};

// The rows of a call by depth: group d is order[begin[d]] .. order[begin[d + 1] - 1].
struct DepthGroups {
  const int32_t* order;
  const int32_t* begin;  // [depths + 1]
  int32_t depths;
};
// Groups the rows named by subset [count], or rows 0 .. count - 1 if it is null. order [count], begin [depths + 1].
DepthGroups group_by_depth(const fth_row* rows, const int32_t* subset, int64_t count, int32_t depths, int32_t* order,
                           int32_t* begin);

// A linear layer with LoRA: product.addend is set by run_linears. The scratch is indexed by row as y is: `rows` is one
// more than the highest row.
struct LoraScratch {
  size_t inner, addend;
  LoraScratch(Layout& layout, const LoraShape& shape, int64_t rows)
      : inner(layout.add<char>(rows * x_stride(shape.rank, shape.type) * element_bytes(shape.type))),
        addend(layout.add<float>(rows * shape.w_rows)) {}
};
struct LinearCall {
  linear::Args product;
  int32_t weight_type;
  const void* lora;  // packed pairs; null: none, and nothing below is read
  LoraShape lora_shape;
  void* lora_inner;           // scratch + LoraScratch.inner
  float* lora_addend;         // scratch + LoraScratch.addend
  const DepthGroups* groups;  // of the same rows as product.rows
};

// Runs linears that do not depend on one another: one parallel region, or three if any has LoRA.
void run_linears(fth_context* ctx, LinearCall* calls, int count);

// Rounds x [count, in] to bf16 rows of x_stride(in, FTH_BF16).
void round_rows(fth_context* ctx, const float* x, int64_t in, int64_t count, uint16_t* y);

// The single-threaded kernel, for operations that split the work themselves.
linear::Panels* panels_kernel(const fth_context* ctx, int32_t weight_type);

}  // namespace fth
