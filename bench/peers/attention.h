// Attention of one sequence on Fathom and on a peer, from the same numbers.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../models.h"
#include "paired.h"

namespace peers {

// `rows` queries, the last of `context` tokens, causal. q [rows, heads, head_dim]; k, v [context, kv_heads, head_dim].
struct Sequence {
  const bench::Model* model;
  int64_t rows, context;
  std::vector<float> q, k, v;
};

class Attention {
 public:
  virtual ~Attention() = default;
  // K,V of this layer.
  virtual void run(int64_t layer) = 0;
  // [rows, heads, head_dim] after a run.
  virtual const float* out() const = 0;
};

class AttentionPeer {
 public:
  virtual ~AttentionPeer() = default;
  // What the peer stores K,V as where Fathom has `type`; null if it has nothing that compares.
  virtual const char* stores(int32_t type) const = 0;
  // `layers` equal K,V.
  virtual std::unique_ptr<Attention> load(int32_t type, const Sequence& sequence, int64_t layers, int threads) = 0;
};

// One token and whole prompts, K,V from memory.
void compare_attention(const Options& options, AttentionPeer& peer, Report& report);

}  // namespace peers
