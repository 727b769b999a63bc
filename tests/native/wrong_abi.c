/* A library of another version, for the loader to refuse: see LoaderTest.java. */
#include <stdint.h>

int32_t fth_abi(void);
__attribute__((visibility("default"))) int32_t fth_abi(void) { return -1; }
