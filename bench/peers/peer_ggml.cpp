// ggml, the CPU back end of llama.cpp: mul_mat, repacked where it has a repacked form, and flash attention.
#include <ggml-cpu.h>
#include <math.h>
#include <string.h>

#include "attention.h"
#include "ggml_linears.h"

namespace {

ggml_backend_dev_t cpu() { return ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0); }

// The buffer type that repacks this weight, or the plain one.
ggml_backend_buffer_type_t buffer_for(ggml_type type, const peers::Part& part) {
  const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts"));
  for (ggml_backend_buffer_type_t* b = extra == nullptr ? nullptr : extra(cpu()); b != nullptr && *b != nullptr; b++) {
    peers::Tensors weight(4);
    ggml_tensor* w = ggml_new_tensor_2d(weight.context(), type, part.in, part.out);
    weight.allocate(*b);
    ggml_tensor* x = ggml_new_tensor_2d(weight.context(), GGML_TYPE_F32, part.in, 1);
    if (ggml_backend_dev_supports_op(cpu(), ggml_mul_mat(weight.context(), w, x))) return *b;
  }
  return ggml_backend_cpu_buffer_type();
}

class GgmlAttention : public peers::Attention {
 public:
  GgmlAttention(ggml_type type, const peers::Sequence& s, int64_t layers, int threads) : tensors_(2 * layers + 2) {
    const bench::Model& m = *s.model;
    ggml_context* context = tensors_.context();
    ggml_tensor* q = ggml_new_tensor_3d(context, GGML_TYPE_F32, m.head_dim, s.rows, m.heads);
    ggml_tensor* mask = ggml_new_tensor_2d(context, GGML_TYPE_F16, s.context, s.rows);
    std::vector<ggml_tensor*> kv;
    for (int64_t i = 0; i < 2 * layers; i++)
      kv.push_back(ggml_new_tensor_3d(context, type, m.head_dim, s.context, m.kv_heads));
    tensors_.allocate(ggml_backend_cpu_buffer_type());

    const std::vector<float> queries = heads_first(s.q, s.rows, m.heads, m.head_dim);
    ggml_backend_tensor_set(q, queries.data(), 0, ggml_nbytes(q));
    std::vector<ggml_fp16_t> seen;
    for (int64_t row = 0; row < s.rows; row++)
      for (int64_t key = 0; key < s.context; key++)
        seen.push_back(ggml_fp32_to_fp16(key <= s.context - s.rows + row ? 0.f : -INFINITY));
    ggml_backend_tensor_set(mask, seen.data(), 0, ggml_nbytes(mask));
    for (int which = 0; which < 2; which++) {
      const std::vector<float> source = heads_first(which == 0 ? s.k : s.v, s.context, m.kv_heads, m.head_dim);
      std::vector<uint8_t> stored(ggml_nbytes(kv[0]));
      ggml_quantize_chunk(type, source.data(), stored.data(), 0, s.context * m.kv_heads, m.head_dim, nullptr);
      for (int64_t layer = 0; layer < layers; layer++)
        ggml_backend_tensor_set(kv[size_t(2 * layer + which)], stored.data(), 0, stored.size());
    }
    for (int64_t layer = 0; layer < layers; layer++) {
      ggml_context* nodes = graphs_.next(1, layer == 0 ? int64_t(s.q.size()) * 4 + 64 : 0);
      ggml_set_no_alloc(nodes, layer != 0);
      ggml_tensor* node = ggml_flash_attn_ext(nodes, q, kv[size_t(2 * layer)], kv[size_t(2 * layer + 1)], mask,
                                              1 / sqrtf(float(m.head_dim)), 0, 0);
      if (layer != 0) node->data = graphs_.node(0, 0)->data;
      graphs_.add(node);
      graphs_.plan(threads);
    }
  }
  void run(int64_t layer) override { graphs_.run(layer); }
  const float* out() const override { return static_cast<const float*>(graphs_.node(0, 0)->data); }

 private:
  static std::vector<float> heads_first(const std::vector<float>& in, int64_t tokens, int64_t heads, int64_t width) {
    std::vector<float> out(in.size());
    for (int64_t t = 0; t < tokens; t++)
      for (int64_t h = 0; h < heads; h++)
        memcpy(&out[size_t((h * tokens + t) * width)], &in[size_t((t * heads + h) * width)], size_t(width) * 4);
    return out;
  }
  peers::Tensors tensors_;
  peers::Graphs graphs_;
};

class Ggml : public peers::Peer, public peers::AttentionPeer {
 public:
  std::string name() const override { return std::string("ggml ") + ggml_version(); }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type == FTH_I8) return nullptr;
    return std::make_unique<peers::GgmlLinears>(type, parts, copies, peers::Packing{buffer_for, [](ggml_tensor*) {}});
  }
  const char* stores(int32_t type) const override {
    return type == FTH_F32 ? "f32" : type == FTH_BF16 ? "f16" : "q8_0";
  }
  std::unique_ptr<peers::Attention> load(int32_t type, const peers::Sequence& s, int64_t layers, int threads) override {
    const ggml_type stored = type == FTH_F32 ? GGML_TYPE_F32 : type == FTH_BF16 ? GGML_TYPE_F16 : GGML_TYPE_Q8_0;
    return std::make_unique<GgmlAttention>(stored, s, layers, threads);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);  // it names every tensor that it repacks
  Ggml peer;
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
  peers::compare_attention(options, peer, report);
}
