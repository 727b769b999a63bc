// Where everything lies in a block's weight buffer, and a pass through the block for operations that are made of them.
#pragma once
#include "kv.h"
#include "linear.h"

namespace fth {

// One linear of a layer: its packed weight, bias and LoRA pairs. Offsets are from the start of the layer; -1: absent.
struct LinearPart {
  WeightShape shape;
  LoraShape lora_shape;
  int64_t weight, bias, lora;
};

// What all layers share comes first, then the layers, all of one size. Gate and up are one glu product, and their LoRA
// pairs one of rank gate + up: A stacks both, B is block-diagonal.
struct BlockPlan {
  BlockPlan(const fth_context* ctx, const fth_block_shape& shape);

  // Of the buffer.
  static size_t alignment(const fth_context* ctx) {
    return FTH_ON_DEVICE(ctx) ? size_t(linear::tiles::kAlignment) : sizeof(float);
  }
  // How many vectors of a norm there are, one per depth or one for all.
  static int32_t norm_sets(const fth_block_shape& s) { return s.norm_per_depth ? s.depths : 1; }
  // Whether the shape has this norm; they come in threes, PRE, BRANCH and POST of a sub-layer.
  static bool uses_norm(const fth_block_shape& s, int32_t part) {
    const bool cross = part >= FTH_CROSS_PRE_NORM && part <= FTH_CROSS_POST_NORM;
    return (s.norm_placement >> (part - FTH_ATTENTION_PRE_NORM) % 3 & 1) && (s.cross || !cross);
  }

  LinearPart q, k, v, o, cross_q, cross_o, mlp_in, down;
  int64_t gain[9], norm_bias[9];  // by part - FTH_ATTENTION_PRE_NORM: [norm sets][hidden_size]
  int64_t frequency, relative;    // offsets in the buffer
  int64_t first_layer, layer_bytes, bytes;
};

bool check_block(Check& check, const fth_block_shape* shape);
// A legal pool for the block; sets its shape. False if this or anything before was refused.
bool check_pool(Check& check, const fth_block_shape& shape, int64_t pool_entries, fth_kv_shape* kv);

// The rows of a step. All addresses are those that kernels read.
struct StepRows {
  int64_t count;
  const fth_row *rows, *cross_rows;
  const int32_t* entries;
  const int32_t* writers;  // rows that store K and V
  int64_t writer_count;
  DepthGroups all, writing;  // with LoRA
  const int32_t* live;       // on a device, or null: rows from *live on see nothing and write nothing
};
// Finds the writers and the groups in checked arrays of the host, in `host` of step_words bytes, and stages what
// kernels read of them.
fth_status step_rows(fth_context* ctx, const fth_block_shape& shape, int64_t count, const fth_row* rows,
                     const fth_row* cross_rows, const int32_t* entries, int64_t entry_count, char* host, StepRows* out);
size_t step_words(const fth_block_shape& shape, int64_t count);
// One pass. Arguments are taken as checked; `scratch` is where kernels run, of step_scratch bytes.
void run_step(fth_context* ctx, const fth_block_shape& shape, const BlockPlan& plan, const StepRows& rows,
              const void* weights, const kv::Pool& pool, const int32_t* entry_position, float* hidden, char* scratch);
size_t step_scratch(const fth_context* ctx, const fth_block_shape& shape, const BlockPlan& plan, int64_t count);

}  // namespace fth
