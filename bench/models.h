// Shapes and storage types that all benchmarks share.
#pragma once
#include <stdint.h>

#include "fathom/fathom.h"

namespace bench {

struct Model {
  const char* name;
  int32_t hidden, heads, kv_heads, head_dim, inner;
};
// The first three are the sizes of Mixture-of-Recursions.
constexpr Model kModels[] = {{"SmolLM-135M", 576, 9, 3, 64, 1536},
                             {"SmolLM-360M", 960, 15, 5, 64, 2560},
                             {"SmolLM-1.7B", 2048, 32, 32, 64, 8192},
                             {"TinyLlama", 2048, 32, 4, 64, 5632},
                             {"Gemma-2B", 2048, 8, 1, 256, 16384}};

// What weights may be stored as.
struct Type {
  int32_t code;
  const char* name;
};
constexpr Type kTypes[] = {
    {FTH_F32, "f32"},   {FTH_BF16, "bf16"}, {FTH_F8_E4M3, "f8"},
    {FTH_I8, "i8"},     {FTH_Q8_0, "q8_0"}, {FTH_Q4_0, "q4_0"}};

// The products of a layer; gate and up are one.
constexpr const char* kProducts[] = {"q,k,v", "o", "gate,up", "down"};
constexpr int kProductCount = 4;

// Weights that are to come from memory are taken in turn from so many bytes: far more than a last-level cache holds.
constexpr int64_t kStream = int64_t(300) << 20;

}  // namespace bench
