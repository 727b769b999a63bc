// Fathom, through its public header only.
#include "fathom_linears.h"

#include <stdlib.h>
#include <string.h>

#include <map>

namespace peers {
namespace {

class FathomLinears : public Linears {
 public:
  ~FathomLinears() override { fth_memory_unmap(FTH_MEMORY_HOST, 0, weights_, copies_ * bytes_); }

  bool load(int32_t type, const std::vector<Part>& parts, int64_t copies) {
    fth_context* ctx = context(1);
    for (const Part& part : parts) {
      Packed p{{part.in, part.out, type, FTH_IDENTITY, 0, FTH_RESIDUAL_NONE, 0, 0}, bytes_, part.x.data(), {}};
      int64_t bytes = 0;
      if (fth_linear_bytes(ctx, &p.shape, &bytes) != FTH_OK) return false;
      p.y.resize(size_t(kMostRows) * size_t(part.out));
      packed_.push_back(std::move(p));
      bytes_ += (bytes + 63) / 64 * 64;
    }
    copies_ = copies;
    must(ctx, fth_memory_map(FTH_MEMORY_HOST, 0, copies * bytes_, &weights_));
    for (size_t i = 0; i < parts.size(); i++) {
      const bool blocks = !parts[i].blocks.empty();
      must(ctx,
           fth_linear_pack(ctx, &packed_[i].shape, 0, parts[i].out, blocks ? type : FTH_F32,
                           blocks ? static_cast<const void*>(parts[i].blocks.data()) : parts[i].w.data(), at(0, i)));
    }
    for (int64_t copy = 1; copy < copies; copy++) memcpy(at(copy, 0), at(0, 0), size_t(bytes_));
    return true;
  }

  void prepare(int64_t rows, int threads) override {
    rows_ = rows;
    ctx_ = context(threads);
  }
  void run(int64_t copy) override {
    for (size_t i = 0; i < packed_.size(); i++)
      must(ctx_, fth_linear(ctx_, &packed_[i].shape, rows_, nullptr, packed_[i].x, at(copy, i), nullptr, nullptr,
                            nullptr, nullptr, packed_[i].y.data()));
  }
  float* y(int part) override { return packed_[size_t(part)].y.data(); }

 private:
  struct Packed {
    fth_linear_shape shape;
    int64_t offset;
    const float* x;
    std::vector<float> y;
  };
  char* at(int64_t copy, size_t part) const {
    return static_cast<char*>(weights_) + copy * bytes_ + packed_[part].offset;
  }
  fth_context* ctx_ = nullptr;
  std::vector<Packed> packed_;
  void* weights_ = nullptr;
  int64_t bytes_ = 0, copies_ = 0, rows_ = 0;
};

}  // namespace

fth_context* context(int threads) {
  static std::map<int, fth_context*> contexts;
  fth_context*& ctx = contexts[threads];
  char message[256];
  if (ctx == nullptr && fth_context_create(FTH_CPU, threads, FTH_ISA_AUTO, message, sizeof message, &ctx) != FTH_OK) {
    fprintf(stderr, "%s\n", message);
    exit(1);
  }
  return ctx;
}

void must(fth_context* ctx, fth_status status) {
  if (status == FTH_OK) return;
  fprintf(stderr, "%s\n", fth_context_message(ctx));
  exit(1);
}

std::unique_ptr<Linears> load_fathom(int32_t type, const std::vector<Part>& parts, int64_t copies) {
  auto linears = std::make_unique<FathomLinears>();
  if (!linears->load(type, parts, copies)) return nullptr;
  return linears;
}

}  // namespace peers
