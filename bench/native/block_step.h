// A step of a block shaped like SmolLM-360M's layers, in bf16: the size that recursive models have. Every row is at
// another depth, of a sequence of its own.
#pragma once
#include "bench.h"

namespace bench {

class BlockStep {
 public:
  // `copies`: as many blocks, each with weights of its own.
  BlockStep(fth_context* ctx, int32_t layers, int64_t rows, int64_t copies = 1)
      : ctx_(ctx), shape_(shape_of(layers, int32_t(rows))), count_(rows), weight_bytes_(bytes_of(ctx, shape_)),
        copies_(copies), weights_(copies * weight_bytes_), pool_(pool_bytes(ctx, shape_, rows)),
        rows_(rows * int64_t(sizeof(fth_row))), entries_(rows * kSeen * 4), hidden_(rows * shape_.hidden_size * 4) {
    weights_.fill();
    pool_.fill();
    hidden_.fill();
    int32_t* const entries = reinterpret_cast<int32_t*>(entries_.bytes());
    for (int64_t i = 0; i < rows * kSeen; i++) entries[i] = int32_t(i);
    for (int64_t i = 0; i < rows; i++)
      row(i) = {i * kSeen, ~uint64_t(0), kSeen, 0, kSeen - 1, int32_t(i), int32_t(i * kSeen + kSeen - 1), 0};
  }

  void run(int64_t copy = 0) {
    MUST(ctx_, fth_block(ctx_, &shape_, count_, &row(0), nullptr, weights(copy),
                         reinterpret_cast<int32_t*>(entries_.bytes()), count_ * kSeen, nullptr, count_ * kSeen,
                         pool_.bytes(), hidden_.floats()));
  }
  int64_t weight_bytes() const { return weight_bytes_; }
  const char* weights(int64_t copy) const { return weights_.bytes() + copy * weight_bytes_; }
  int64_t copies() const { return copies_; }
  double flops() const {
    const double d = shape_.hidden_size, q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
    return 2.0 * double(count_) * shape_.layers *
           (d * (2 * q + 2 * kv + 3.0 * shape_.intermediate_size) + 2 * q * kSeen);
  }

 private:
  static constexpr int32_t kSeen = 128;  // items of each row's list

  static fth_block_shape shape_of(int32_t layers, int32_t depths) {
    fth_block_shape s{};
    s.layers = layers;
    s.depths = depths;
    s.hidden_size = 960;
    s.intermediate_size = 2560;
    s.heads = 15;
    s.kv_heads = 5;
    s.head_dim = s.rotary_dim = 64;
    s.weight_type = s.kv_type = FTH_BF16;
    s.norm_placement = FTH_NORM_PRE;
    s.activation = FTH_SILU;
    s.glu = 1;
    s.rope_style = FTH_ROPE_HALF;
    s.norm_eps = 1e-5f;
    s.attention_scale = 0.125f;
    return s;
  }
  static int64_t bytes_of(fth_context* ctx, const fth_block_shape& s) {
    int64_t bytes = 0;
    MUST(ctx, fth_block_bytes(ctx, &s, &bytes));
    return bytes;
  }
  static int64_t pool_bytes(fth_context* ctx, const fth_block_shape& s, int64_t rows) {
    const fth_kv_shape kv{s.layers, s.kv_heads, s.head_dim, s.kv_type, rows * kSeen};
    int64_t bytes = 0;
    MUST(ctx, fth_kv_bytes(ctx, &kv, &bytes));
    return bytes;
  }
  fth_row& row(int64_t i) { return reinterpret_cast<fth_row*>(rows_.bytes())[i]; }

  fth_context* ctx_;
  fth_block_shape shape_;
  int64_t count_, weight_bytes_, copies_;
  Memory weights_, pool_, rows_, entries_, hidden_;
};

}  // namespace bench
