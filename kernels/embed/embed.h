// One embedding: out = scale * row, fp32 from fp32 or bf16.
#pragma once
#include <cstdint>

#include "fathom/fathom.h"

namespace fth::embed {

using F32 = void(const float* row, float scale, int64_t width, float* out);  // out may be row
using Bf16 = void(const uint16_t* row, float scale, int64_t width, float* out);
namespace scalar { F32 f32; Bf16 bf16; }
namespace avx2 { F32 f32; Bf16 bf16; }
namespace avx512 { F32 f32; Bf16 bf16; }

// All of a call, pointers to memory of the device.
struct Args {
  const void* table;  // [.., width], or packed (linear/tiles.h)
  int32_t type;
  bool packed;
  int64_t strip_bytes, steps;  // of packed weights
  int64_t width;
  float scale;
  const int32_t* id;
  float* out;
};
namespace cuda { void rows(const Args&, int64_t count, void* stream); }

}  // namespace fth::embed
