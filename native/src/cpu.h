// What this machine and process offer.
#pragma once
#include <cstdint>

namespace fth {

int32_t best_isa();      // FTH_ISA_*; asks CPUID and the operating system's saved state
bool has_int8_dot(int32_t isa);  // VNNI in vectors as wide as the instruction set's
bool has_bf16_dot();     // AVX512-BF16
int usable_cores();      // affinity mask and cgroup quota, at least 1
int64_t l2_bytes();      // 0 if unknown
int64_t l3_bytes();

}  // namespace fth
