// oneDNN: matmul with weights that it lays out once (format_tag::any), activations already in their type. With
// ONEDNN_F32=1 they come in fp32, as Fathom's do, and its reorder makes them bf16 or int8 inside the timed call, by a
// scale that is known beforehand.
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "linears.h"

namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Data = memory::data_type;

class DnnlLinears : public peers::Linears {
 public:
  DnnlLinears(const dnnl::engine& engine, int32_t type, bool from_f32, const std::vector<peers::Part>& parts,
              int64_t copies)
      : engine_(engine), stream_(engine), type_(type), from_f32_(from_f32 && type != FTH_F32), copies_(copies) {
    for (const peers::Part& part : parts) products_.emplace_back(part);
  }

  void prepare(int64_t rows, int threads) override {
    omp_set_num_threads(threads);
    for (Product& p : products_) prepare(p, rows);
  }
  void run(int64_t copy) override {
    for (Product& p : products_) {
      if (from_f32_) p.convert.execute(stream_, p.convert_arguments);
      p.arguments[DNNL_ARG_WEIGHTS] = p.weights[size_t(copy)];
      p.matmul.execute(stream_, p.arguments);
    }
    stream_.wait();
  }
  float* y(int part) override { return products_[size_t(part)].y.data(); }

 private:
  struct Product {
    explicit Product(const peers::Part& p) : part(p), y(size_t(peers::kMostRows) * size_t(p.out)) {}
    const peers::Part& part;
    std::vector<float> y, scale;
    dnnl::reorder convert;
    dnnl::matmul matmul;
    memory::desc layout;
    std::vector<memory> weights;
    std::unordered_map<int, memory> arguments, convert_arguments;
  };

  Data data() const { return type_ == FTH_F32 ? Data::f32 : type_ == FTH_BF16 ? Data::bf16 : Data::s8; }

  // [rows, columns] in this type: f32 and bf16 by its own reorder, int8 with the scales given.
  memory converted(const float* values, int64_t rows, int64_t columns, Tag tag, const std::vector<float>& scale) {
    const bool weights = tag == Tag::ba;  // [out, in] seen as [in, out]
    const memory::dims dims = weights ? memory::dims{columns, rows} : memory::dims{rows, columns};
    memory out({dims, data(), tag}, engine_);
    if (type_ == FTH_I8) {
      int8_t* to = static_cast<int8_t*>(out.get_data_handle());
      for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
          to[r * columns + c] = int8_t(lrintf(values[r * columns + c] / scale[weights ? size_t(r) : 0]));
    } else {
      memory in({dims, Data::f32, tag}, engine_, const_cast<float*>(values));
      dnnl::reorder(in, out).execute(stream_, in, out);
      stream_.wait();
    }
    return out;
  }

  void prepare(Product& p, int64_t rows) {
    const int64_t in = p.part.in, out = p.part.out;
    const memory::desc src({rows, in}, data(), Tag::ab), wei({in, out}, data(), Tag::any),
        dst({rows, out}, Data::f32, Tag::ab);
    // int8: one scale for all activations, one per output feature for the weights.
    std::vector<float> x_scale, w_scale;
    dnnl::primitive_attr attributes;
    if (type_ == FTH_I8) {
      x_scale = {peers::i8_scale(p.part.x.data(), rows * in)};
      for (int64_t i = 0; i < out; i++) w_scale.push_back(peers::i8_scale(&p.part.w[size_t(i * in)], in));
    }
    p.arguments.clear();
#if DNNL_VERSION_MAJOR >= 3
    if (type_ == FTH_I8) {
      attributes.set_scales_mask(DNNL_ARG_SRC, 0);
      attributes.set_scales_mask(DNNL_ARG_WEIGHTS, 1 << 1);
      memory x_memory({{1}, Data::f32, Tag::a}, engine_), w_memory({{out}, Data::f32, Tag::a}, engine_);
      *static_cast<float*>(x_memory.get_data_handle()) = x_scale[0];
      std::copy(w_scale.begin(), w_scale.end(), static_cast<float*>(w_memory.get_data_handle()));
      p.arguments[DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC] = x_memory;
      p.arguments[DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS] = w_memory;
    }
    const dnnl::matmul::primitive_desc description(engine_, src, wei, dst, attributes);
#else
    if (type_ == FTH_I8) {
      std::vector<float> both = w_scale;
      for (float& value : both) value *= x_scale[0];
      attributes.set_output_scales(1 << 1, both);
    }
    const dnnl::matmul::primitive_desc description({src, wei, dst}, attributes, engine_);
#endif
    p.matmul = dnnl::matmul(description);
    p.arguments[DNNL_ARG_SRC] = converted(p.part.x.data(), rows, in, Tag::ab, x_scale);
    p.arguments[DNNL_ARG_DST] = memory(dst, engine_, p.y.data());
    if (from_f32_) prepare_convert(p, rows);
    // The layout it wants may depend on the number of rows.
    if (!p.weights.empty() && p.layout == description.weights_desc()) return;
    p.layout = description.weights_desc();
    p.weights.clear();
    memory plain = converted(p.part.w.data(), out, in, Tag::ba, w_scale);
    for (int64_t copy = 0; copy < copies_; copy++) {
      memory packed(p.layout, engine_);
      dnnl::reorder(plain, packed).execute(stream_, plain, packed);
      p.weights.push_back(packed);
    }
    stream_.wait();
  }

  void prepare_convert(Product& p, int64_t rows) {
    const memory from({{rows, p.part.in}, Data::f32, Tag::ab}, engine_, const_cast<float*>(p.part.x.data()));
    const memory& to = p.arguments[DNNL_ARG_SRC];
    dnnl::primitive_attr attributes;
    p.convert_arguments = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    if (type_ == FTH_I8) {
#if DNNL_VERSION_MAJOR >= 3
      attributes.set_scales_mask(DNNL_ARG_DST, 0);
      p.convert_arguments[DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST] = p.arguments[DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC];
#else
      attributes.set_output_scales(0, {1 / peers::i8_scale(p.part.x.data(), rows * p.part.in)});
#endif
    }
    p.convert = dnnl::reorder(from, to, attributes);
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  int32_t type_;
  bool from_f32_;
  int64_t copies_;
  std::vector<Product> products_;
};

class OneDnn : public peers::Peer {
 public:
  std::string name() const override {
    const dnnl_version_t* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch) +
           (from_f32_ ? ", activations in f32" : "");
  }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type != FTH_F32 && type != FTH_BF16 && type != FTH_I8) return nullptr;
    return std::make_unique<DnnlLinears>(engine_, type, from_f32_, parts, copies);
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  const bool from_f32_ = getenv("ONEDNN_F32") != nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  OneDnn peer;
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
}
