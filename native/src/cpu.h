// What this machine and process offer.
#pragma once
#include <sched.h>

#include <cstddef>
#include <cstdint>

namespace fth {

int32_t best_isa();      // FTH_ISA_*; asks CPUID and the operating system's saved state
bool has_int8_dot(int32_t isa);  // VNNI in vectors as wide as the instruction set's
bool has_bf16_dot();     // AVX512-BF16
// Cores that this process may fill: those in its affinity mask, threads of one core counted once, but no more than the
// CPU quota of its control groups, rounded up; at least 1.
int usable_cores();
// The same for a mask of `bytes`, with the kernel's files under `root` instead of /.
int usable_cores(const cpu_set_t* mask, size_t bytes, const char* root);
int64_t l2_bytes();      // of a core; 0 if unknown
int64_t l3_bytes();      // that a core sees; 0 if unknown

}  // namespace fth
