// Tests on a device that does not reach the memory of the process by itself: what they allocate is pinned for it.
// Compiled in with FATHOM_TEST_CUDA_DEVICE; device_memory.cpp does the same for the heap, variables and the stack.
#pragma once
#include <cstddef>

namespace test {

#ifdef FATHOM_TEST_CUDA_DEVICE
constexpr bool kLent = true;
// Whole pages that the process may write; until take_back() they must stay mapped.
void lend(void* pages, size_t bytes);
void take_back(void* pages);
// The program, with its heap, stack and variables lent; without a device it says so and gives kSkipped.
constexpr int kSkipped = 77;
int with_memory_lent(int (*program)(int, char**), int argc, char** argv);
#else
constexpr bool kLent = false;
inline void lend(void*, size_t) {}
inline void take_back(void*) {}
inline int with_memory_lent(int (*program)(int, char**), int argc, char** argv) { return program(argc, argv); }
#endif

}  // namespace test
