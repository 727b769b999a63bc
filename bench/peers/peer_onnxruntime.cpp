// ONNX Runtime: a graph with a node for each product and its weights as initializers, which a session packs once; one
// session per copy, all on one pool of threads.
#include <math.h>
#include <onnxruntime_c_api.h>
#include <string.h>

#include <memory>

#include "linears.h"

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void must(OrtStatus* status) {
  if (status == nullptr) return;
  fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  exit(1);
}

template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

// The value that a call creates through its last argument.
template <class T, class Call>
T* made(Call call) {
  T* out = nullptr;
  must(call(&out));
  return out;
}

using Dimensions = std::vector<int64_t>;

// A tensor over memory that stays where it is.
OrtValue* tensor(const void* data, size_t bytes, const Dimensions& shape, ONNXTensorElementDataType type) {
  OrtMemoryInfo* info = made<OrtMemoryInfo>(
      [](auto out) { return api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, out); });
  OrtValue* value = made<OrtValue>([&](auto out) {
    return api->CreateTensorWithDataAsOrtValue(info, const_cast<void*>(data), bytes, shape.data(), shape.size(), type,
                                               out);
  });
  api->ReleaseMemoryInfo(info);
  return value;
}
OrtValue* floats(const float* data, const Dimensions& shape) {
  int64_t count = 1;
  for (int64_t d : shape) count *= d;
  return tensor(data, size_t(count) * sizeof(float), shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
}

// One product as a node of ONNX: the operator's weights and scales.
struct Product {
  Product(const peers::Part& p, int32_t weights) : part(p), type(weights), y(size_t(peers::kMostRows) * size_t(p.out)) {
    const size_t in = size_t(p.in), out = size_t(p.out);
    if (type == FTH_F32) {
      w.resize(in * out);
      transpose(w.data(), [&](size_t o, size_t i) { return p.w[o * in + i]; });
    } else if (type == FTH_I8) {
      for (size_t o = 0; o < out; o++) scale.push_back(peers::i8_scale(&p.w[o * in], p.in));
      bytes.resize(in * out);
      transpose(reinterpret_cast<int8_t*>(bytes.data()),
                [&](size_t o, size_t i) { return int8_t(lrintf(p.w[o * in + i] / scale[o])); });
    } else {
      unpack_blocks();
    }
  }

  // Adds node i and what it needs to the graph.
  void add(const OrtModelEditorApi* editor, OrtGraph* graph, int i) const {
    const std::string number = std::to_string(i);
    const std::string x = "x" + number, weights = "w" + number, scales = "s" + number, result = "y" + number;
    std::vector<const char*> inputs{x.c_str(), weights.c_str()};
    const char* const output = result.c_str();
    std::vector<OrtOpAttr*> attributes;
    const auto number_of = [&](const char* name, int64_t value) {
      attributes.push_back(
          made<OrtOpAttr>([&](auto out) { return api->CreateOpAttr(name, &value, 1, ORT_OP_ATTR_INT, out); }));
    };
    const bool blocks = type == FTH_Q8_0 || type == FTH_Q4_0;
    const int64_t in = part.in, out = part.out, bits = type == FTH_Q4_0 ? 4 : 8;
    OrtValue* values = type == FTH_F32 ? floats(w.data(), {in, out})
                       : blocks ? tensor(bytes.data(), bytes.size(), {out, in / kBlock, kBlock * bits / 8},
                                         ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8)
                                : tensor(bytes.data(), bytes.size(), {in, out}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
    must(editor->AddInitializerToGraph(graph, inputs[1], values, true));
    if (type != FTH_F32) {
      inputs.push_back(scales.c_str());
      must(editor->AddInitializerToGraph(graph, inputs[2], floats(scale.data(), {int64_t(scale.size())}), true));
    }
    if (blocks) {
      constexpr int64_t kInt8Activations = 4;
      number_of("K", in);
      number_of("N", out);
      number_of("bits", bits);
      number_of("block_size", kBlock);
      number_of("accuracy_level", kInt8Activations);
    }
    OrtNode* node = made<OrtNode>([&](auto made_node) {
      return editor->CreateNode(type == FTH_F32 ? "MatMul" : blocks ? "MatMulNBits" : "DynamicQuantizeMatMul",
                                type == FTH_F32 ? "" : "com.microsoft", result.c_str(), inputs.data(), inputs.size(),
                                &output, 1, attributes.data(), attributes.size(), made_node);
    });
    must(editor->AddNodeToGraph(graph, node));
  }

  const peers::Part& part;
  int32_t type;
  std::vector<float> y;

 private:
  static constexpr int64_t kBlock = 32;

  template <class T, class At>
  void transpose(T* to, At at) const {
    const size_t in = size_t(part.in), out = size_t(part.out);
    for (size_t o = 0; o < out; o++)
      for (size_t i = 0; i < in; i++) to[i * out + o] = at(o, i);
  }

  // The same integers: unsigned around the middle, nibbles in the order of the inputs.
  void unpack_blocks() {
    const size_t size = type == FTH_Q8_0 ? 34 : 18;
    for (size_t from = 0; from < part.blocks.size(); from += size) {
      const uint8_t *block = &part.blocks[from], *q = block + 2;
      _Float16 d;
      memcpy(&d, block, 2);
      scale.push_back(float(d));
      if (type == FTH_Q8_0)
        for (int i = 0; i < kBlock; i++) bytes.push_back(uint8_t(q[i] + 128));
      else
        for (int i = 0; i < kBlock; i += 2) {
          const auto nibble = [&](int at) { return at < kBlock / 2 ? q[at] & 15 : q[at - kBlock / 2] >> 4; };
          bytes.push_back(uint8_t(nibble(i) | nibble(i + 1) << 4));
        }
    }
  }

  std::vector<float> w, scale;
  std::vector<uint8_t> bytes;
};

class OnnxLinears : public peers::Linears {
 public:
  OnnxLinears(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) : copies_(copies) {
    for (const peers::Part& part : parts) {
      const std::string number = std::to_string(products_.size());
      products_.push_back(std::make_unique<Product>(part, type));
      names_[0].push_back("x" + number);
      names_[1].push_back("y" + number);
    }
  }

  void prepare(int64_t rows, int threads) override {
    if (threads != threads_) start(threads);
    for (auto& values : values_) values.clear();
    for (const auto& p : products_) {
      values_[0].emplace_back(floats(p->part.x.data(), {rows, p->part.in}), api->ReleaseValue);
      values_[1].emplace_back(floats(p->y.data(), {rows, p->part.out}), api->ReleaseValue);
    }
  }
  void run(int64_t copy) override {
    constexpr size_t kMost = bench::kProductCount;
    const size_t count = products_.size();
    const char *inputs[kMost], *outputs[kMost];
    OrtValue *x[kMost], *y[kMost];
    for (size_t i = 0; i < count; i++) {
      inputs[i] = names_[0][i].c_str();
      outputs[i] = names_[1][i].c_str();
      x[i] = values_[0][i].get();
      y[i] = values_[1][i].get();
    }
    must(api->Run(sessions_[size_t(copy)].get(), nullptr, inputs, x, count, outputs, count, y));
  }
  float* y(int part) override { return products_[size_t(part)]->y.data(); }

 private:
  // The pool belongs to the environment, of which there is one in a process.
  void start(int threads) {
    sessions_.clear();
    environment_.reset();
    threads_ = threads;
    OrtThreadingOptions* pool = made<OrtThreadingOptions>([](auto out) { return api->CreateThreadingOptions(out); });
    must(api->SetGlobalIntraOpNumThreads(pool, threads));
    must(api->SetGlobalInterOpNumThreads(pool, 1));
    environment_.reset(made<OrtEnv>([&](auto out) {
      return api->CreateEnvWithGlobalThreadPools(ORT_LOGGING_LEVEL_ERROR, "peers", pool, out);
    }));
    api->ReleaseThreadingOptions(pool);
    OrtSessionOptions* options = made<OrtSessionOptions>([](auto out) { return api->CreateSessionOptions(out); });
    must(api->DisablePerSessionThreads(options));
    must(api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
    const OrtModelEditorApi* editor = api->GetModelEditorApi();
    OrtModel* const model = build(editor);
    for (int64_t copy = 0; copy < copies_; copy++)
      sessions_.emplace_back(made<OrtSession>([&](auto out) {
                               return editor->CreateSessionFromModel(environment_.get(), model, options, out);
                             }),
                             api->ReleaseSession);
    api->ReleaseModel(model);
    api->ReleaseSessionOptions(options);
  }

  OrtModel* build(const OrtModelEditorApi* editor) const {
    constexpr int kOnnxVersion = 21, kMicrosoftVersion = 1;
    const char* const domains[] = {"", "com.microsoft"};
    const int versions[] = {kOnnxVersion, kMicrosoftVersion};
    OrtModel* model = made<OrtModel>([&](auto out) { return editor->CreateModel(domains, versions, 2, out); });
    OrtGraph* graph = made<OrtGraph>([&](auto out) { return editor->CreateGraph(out); });
    std::vector<OrtValueInfo*> ends[2];
    for (size_t i = 0; i < products_.size(); i++) {
      ends[0].push_back(rows_of(editor, names_[0][i], products_[i]->part.in));
      ends[1].push_back(rows_of(editor, names_[1][i], products_[i]->part.out));
    }
    must(editor->SetGraphInputs(graph, ends[0].data(), ends[0].size()));
    must(editor->SetGraphOutputs(graph, ends[1].data(), ends[1].size()));
    for (size_t i = 0; i < products_.size(); i++) products_[i]->add(editor, graph, int(i));
    must(editor->AddGraphToModel(model, graph));
    return model;
  }
  // Any number of rows of so many floats.
  static OrtValueInfo* rows_of(const OrtModelEditorApi* editor, const std::string& name, int64_t width) {
    OrtTensorTypeAndShapeInfo* shape =
        made<OrtTensorTypeAndShapeInfo>([](auto out) { return api->CreateTensorTypeAndShapeInfo(out); });
    const int64_t dimensions[] = {-1, width};
    must(api->SetTensorElementType(shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    must(api->SetDimensions(shape, dimensions, 2));
    OrtTypeInfo* type = made<OrtTypeInfo>([&](auto out) { return editor->CreateTensorTypeInfo(shape, out); });
    OrtValueInfo* value =
        made<OrtValueInfo>([&](auto out) { return editor->CreateValueInfo(name.c_str(), type, out); });
    api->ReleaseTensorTypeAndShapeInfo(shape);
    api->ReleaseTypeInfo(type);
    return value;
  }

  int64_t copies_;
  int threads_ = 0;
  std::vector<std::unique_ptr<Product>> products_;
  std::vector<std::string> names_[2];            // of inputs and outputs
  std::vector<Owned<OrtValue>> values_[2];       // likewise
  Owned<OrtEnv> environment_{nullptr, api->ReleaseEnv};
  std::vector<Owned<OrtSession>> sessions_;
};

class OnnxRuntime : public peers::Peer {
 public:
  std::string name() const override { return std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString(); }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type == FTH_BF16) return nullptr;
    return std::make_unique<OnnxLinears>(type, parts, copies);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  OnnxRuntime peer;
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
}
