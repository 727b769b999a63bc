// One embedding: out = scale * row, fp32 from fp32 or bf16.
#pragma once
#include <cstdint>

namespace fth::embed {

using F32 = void(const float* row, float scale, int64_t width, float* out);  // out may be row
using Bf16 = void(const uint16_t* row, float scale, int64_t width, float* out);
namespace scalar { F32 f32; Bf16 bf16; }
namespace avx2 { F32 f32; Bf16 bf16; }
namespace avx512 { F32 f32; Bf16 bf16; }

}  // namespace fth::embed
