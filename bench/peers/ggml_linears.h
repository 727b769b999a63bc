// The products of a layer on ggml, whose calls for that are the same in llama.cpp and in its forks: a graph per copy.
#pragma once
#include <ggml-backend.h>
#include <ggml.h>

#include <type_traits>

#include "linears.h"

namespace peers {

// Tensors of one buffer.
class Tensors {
 public:
  explicit Tensors(int64_t most) : context_(ggml_init({size_t(most) * ggml_tensor_overhead(), nullptr, true})) {}
  ~Tensors() {
    ggml_backend_buffer_free(buffer_);
    ggml_free(context_);
  }
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;
  ggml_context* context() const { return context_; }
  void allocate(ggml_backend_buffer_type_t type) { buffer_ = ggml_backend_alloc_ctx_tensors_from_buft(context_, type); }

 private:
  ggml_context* context_;
  ggml_backend_buffer_t buffer_ = nullptr;
};

// Only ggml itself can be given a pool of threads here; without one it uses its own.
template <class Plan>
ggml_cplan planned(Plan plan, const ggml_cgraph* graph, int threads) {
  if constexpr (std::is_invocable_v<Plan, const ggml_cgraph*, int>) return plan(graph, threads);
  else return plan(graph, threads, nullptr);
}

// Graphs over tensors that exist, one per copy, with the plan of each.
class Graphs {
 public:
  ~Graphs() {
    for (const Graph& g : graphs_) ggml_free(g.context);
  }
  // A context for the nodes of the next graph.
  ggml_context* next(int64_t nodes, int64_t bytes) {
    const size_t size = size_t(nodes) * ggml_tensor_overhead() + ggml_graph_overhead_custom(16, false) + size_t(bytes);
    ggml_context* context = ggml_init({size, nullptr, false});
    graphs_.push_back({context, ggml_new_graph_custom(context, 16, false), {}});
    return context;
  }
  void add(ggml_tensor* node) { ggml_build_forward_expand(graphs_.back().graph, node); }
  void plan(int threads) {
    Graph& g = graphs_.back();
    g.plan = planned(ggml_graph_plan, g.graph, threads);
    if (work_.size() < g.plan.work_size) work_.resize(g.plan.work_size);
  }
  void run(int64_t copy) {
    Graph& g = graphs_[size_t(copy)];
    g.plan.work_data = work_.data();
    ggml_graph_compute(g.graph, &g.plan);
  }
  ggml_tensor* node(int64_t copy, int i) const { return ggml_graph_node(graphs_[size_t(copy)].graph, i); }

 private:
  struct Graph {
    ggml_context* context;
    ggml_cgraph* graph;
    ggml_cplan plan;
  };
  std::vector<Graph> graphs_;
  std::vector<uint8_t> work_;
};

inline ggml_type weights_of(int32_t type) {
  return type == FTH_F32    ? GGML_TYPE_F32
         : type == FTH_BF16 ? GGML_TYPE_BF16
         : type == FTH_Q8_0 ? GGML_TYPE_Q8_0
                            : GGML_TYPE_Q4_0;
}

// How a library is told to lay weights out in its own way.
struct Packing {
  ggml_backend_buffer_type_t (*buffer)(ggml_type type, const Part& part);  // where they are to lie
  void (*pack)(ggml_tensor* weights);                                      // what is done once they lie there
};

class GgmlLinears : public Linears {
 public:
  GgmlLinears(int32_t type, const std::vector<Part>& parts, int64_t copies, const Packing& packing)
      : parts_(parts), copies_(copies) {
    for (const Part& part : parts) {
      auto tensors = std::make_unique<Tensors>(copies);
      for (int64_t i = 0; i < copies; i++) ggml_new_tensor_2d(tensors->context(), weights_of(type), part.in, part.out);
      tensors->allocate(packing.buffer(weights_of(type), part));
      std::vector<uint16_t> half;
      if (type == FTH_BF16)
        for (float value : part.w) half.push_back(to_bf16(value));
      const void* source = type == FTH_F32    ? static_cast<const void*>(part.w.data())
                           : type == FTH_BF16 ? static_cast<const void*>(half.data())
                                              : part.blocks.data();
      std::vector<ggml_tensor*> weights;
      for (ggml_tensor* w = ggml_get_first_tensor(tensors->context()); w != nullptr;
           w = ggml_get_next_tensor(tensors->context(), w)) {
        ggml_backend_tensor_set(w, source, 0, ggml_nbytes(w));
        packing.pack(w);
        weights.push_back(w);
      }
      weights_.push_back(std::move(weights));
      tensors_.push_back(std::move(tensors));
    }
  }

  void prepare(int64_t rows, int threads) override {
    graphs_ = std::make_unique<Graphs>();
    inputs_ = std::make_unique<Tensors>(int64_t(2 * parts_.size()));
    std::vector<ggml_tensor*> x;
    for (const Part& part : parts_)
      x.push_back(ggml_new_tensor_2d(inputs_->context(), GGML_TYPE_F32, part.in, rows));
    std::vector<ggml_tensor*> y;
    for (const Part& part : parts_)
      y.push_back(ggml_new_tensor_2d(inputs_->context(), GGML_TYPE_F32, part.out, rows));
    inputs_->allocate(ggml_backend_cpu_buffer_type());
    for (size_t i = 0; i < x.size(); i++) ggml_backend_tensor_set(x[i], parts_[i].x.data(), 0, ggml_nbytes(x[i]));
    for (int64_t copy = 0; copy < copies_; copy++) {
      ggml_context* context = graphs_->next(int64_t(x.size()), 0);
      ggml_set_no_alloc(context, true);
      for (size_t i = 0; i < x.size(); i++) {
        ggml_tensor* node = ggml_mul_mat(context, weights_[i][size_t(copy)], x[i]);
        node->data = y[i]->data;
        node->buffer = y[i]->buffer;
        graphs_->add(node);
      }
      graphs_->plan(threads);
    }
  }
  void run(int64_t copy) override { graphs_->run(copy); }
  float* y(int part) override { return static_cast<float*>(graphs_->node(0, part)->data); }

 private:
  const std::vector<Part>& parts_;
  int64_t copies_;
  std::vector<std::unique_ptr<Tensors>> tensors_;
  std::vector<std::vector<ggml_tensor*>> weights_;
  std::unique_ptr<Tensors> inputs_;
  std::unique_ptr<Graphs> graphs_;
};

}  // namespace peers
