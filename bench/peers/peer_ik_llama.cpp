// ik_llama.cpp, a fork of llama.cpp with kernels of its own: mul_mat with weights that it repacks where it can.
// IK_LLAMA_PLAIN=1 in the environment leaves them as they are in a file.
#include <stdlib.h>
#include <string.h>

#include "ggml_linears.h"

// What its option --run-time-repack calls; no public header has it.
extern "C" void iqk_repack_tensor(ggml_tensor* tensor);

namespace {

bool is_plain() {
  const char* plain = getenv("IK_LLAMA_PLAIN");
  return plain != nullptr && strcmp(plain, "1") == 0;
}

class IkLlama : public peers::Peer {
 public:
  std::string name() const override {
    return std::string("ik_llama.cpp (" IK_LLAMA_VERSION ")") + (is_plain() ? ", not repacked" : "");
  }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type == FTH_I8) return nullptr;
    const peers::Packing packing{[](ggml_type, const peers::Part&) { return ggml_backend_cpu_buffer_type(); },
                                 [](ggml_tensor* weights) {
                                   if (!is_plain()) iqk_repack_tensor(weights);
                                 }};
    return std::make_unique<peers::GgmlLinears>(type, parts, copies, packing);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  IkLlama peer;
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
}
