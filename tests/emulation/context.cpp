// In front of the library's fth_context_create, which is compiled under another name here.
#include <stdlib.h>

#include "fathom/fathom.h"

extern "C" {

fth_status real_context_create(int32_t backend, int32_t workers_or_device, int32_t isa, char* message,
                               int64_t message_bytes, fth_context** out);

FTH_API fth_status fth_context_create(int32_t backend, int32_t workers_or_device, int32_t isa, char* message,
                                      int64_t message_bytes, fth_context** out) {
  const bool emulate = backend == FTH_CPU && getenv("FATHOM_EMULATE") != nullptr;
  return real_context_create(emulate ? FTH_CUDA : backend, emulate ? 0 : workers_or_device, isa, message, message_bytes,
                             out);
}

}
