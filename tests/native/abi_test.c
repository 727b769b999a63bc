/* The header is C11, its layouts are the ones that the bindings have, and a C program links to the shared library
 * alone. */
#include <stdio.h>

#include "fathom/fathom.h"

#define STRUCT(type, size) _Static_assert(sizeof(struct type) == size, #type);
#define FIELD(type, name, offset) _Static_assert(offsetof(struct type, name) == offset, #type "." #name);
#include "layout.inc"

int main(void) {
  fth_context* ctx = NULL;
  char message[256];
  if (fth_abi() != FTH_ABI) {
    printf("the library has ABI %d, the header has %d\n", fth_abi(), FTH_ABI);
    return 1;
  }
  if (fth_context_create(FTH_CPU, 1, FTH_ISA_AUTO, message, sizeof message, &ctx) != FTH_OK) {
    printf("%s\n", message);
    return 1;
  }
  fth_context_destroy(ctx);
  return 0;
}
