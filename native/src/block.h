// Where everything lies in a block's weight buffer.
#pragma once
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

}  // namespace fth
