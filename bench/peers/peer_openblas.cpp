// OpenBLAS: sgemv for one row, sgemm for several; it has f32 only.
#include <cblas.h>
#include <string.h>

#include "linears.h"

namespace {

class BlasLinears : public peers::Linears {
 public:
  BlasLinears(const std::vector<peers::Part>& parts, int64_t copies) : parts_(parts) {
    for (const peers::Part& part : parts) {
      std::vector<float> w;
      for (int64_t copy = 0; copy < copies; copy++) w.insert(w.end(), part.w.begin(), part.w.end());
      weights_.push_back(std::move(w));
      y_.emplace_back(size_t(peers::kMostRows) * size_t(part.out));
    }
  }
  void prepare(int64_t rows, int threads) override {
    rows_ = int(rows);
    openblas_set_num_threads(threads);
  }
  void run(int64_t copy) override {
    for (size_t i = 0; i < parts_.size(); i++) {
      const int in = parts_[i].in, out = parts_[i].out;
      const float* x = parts_[i].x.data();
      const float* w = weights_[i].data() + copy * int64_t(in) * out;
      float* y = y_[i].data();
      if (rows_ == 1) cblas_sgemv(CblasRowMajor, CblasNoTrans, out, in, 1, w, in, x, 1, 0, y, 1);
      else cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows_, out, in, 1, x, in, w, in, 0, y, out);
    }
  }
  float* y(int part) override { return y_[size_t(part)].data(); }

 private:
  const std::vector<peers::Part>& parts_;
  std::vector<std::vector<float>> weights_, y_;
  int rows_ = 0;
};

class OpenBlas : public peers::Peer {
 public:
  std::string name() const override { return openblas_get_config(); }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type != FTH_F32) return nullptr;
    return std::make_unique<BlasLinears>(parts, copies);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  OpenBlas peer;
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
}
