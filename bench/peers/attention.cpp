#include "attention.h"

#include <math.h>

#include "fathom_linears.h"

namespace peers {
namespace {

class FathomAttention : public Attention {
 public:
  FathomAttention() = default;
  FathomAttention(const FathomAttention&) = delete;
  FathomAttention& operator=(const FathomAttention&) = delete;
  ~FathomAttention() override { fth_memory_unmap(FTH_MEMORY_HOST, 0, pool_, bytes_); }

  bool load(int32_t type, const Sequence& s, int64_t layers, int threads) {
    ctx_ = context(threads);
    const bench::Model& m = *s.model;
    kv_ = {int32_t(layers), m.kv_heads, m.head_dim, type, (s.context + 63) / 64 * 64};
    if (fth_kv_bytes(ctx_, &kv_, &bytes_) != FTH_OK) return false;
    shape_ = {m.heads, FTH_BIAS_NONE, 0, 0, 1 / sqrtf(float(m.head_dim)), 0};
    must(ctx_, fth_memory_map(FTH_MEMORY_HOST, 0, bytes_, &pool_));
    std::vector<fth_row> writers(size_t(s.context), fth_row{});
    for (int32_t i = 0; i < s.context; i++) {
      writers[size_t(i)].entry = i;
      list_.push_back(i);
    }
    for (int32_t layer = 0; layer < layers; layer++)
      must(ctx_, fth_kv_write(ctx_, &kv_, layer, s.context, writers.data(), s.k.data(), s.v.data(), pool_));
    for (int64_t i = 0; i < s.rows; i++) {
      const int32_t position = int32_t(s.context - s.rows + i);
      rows_.push_back({0, ~uint64_t(0), position + 1, 0, position, 0, -1, 0});
    }
    q_ = s.q.data();
    out_.resize(s.q.size());
    return true;
  }
  void run(int64_t layer) override {
    must(ctx_, fth_attention(ctx_, &shape_, &kv_, int32_t(layer), int64_t(rows_.size()), rows_.data(), q_, list_.data(),
                             int64_t(list_.size()), pool_, nullptr, nullptr, out_.data()));
  }
  const float* out() const override { return out_.data(); }

 private:
  fth_context* ctx_ = nullptr;
  fth_kv_shape kv_{};
  fth_attention_shape shape_{};
  void* pool_ = nullptr;
  int64_t bytes_ = 0;
  std::vector<int32_t> list_;
  std::vector<fth_row> rows_;
  const float* q_ = nullptr;
  std::vector<float> out_;
};

void fill(std::vector<float>& values, int64_t count, uint32_t state) {
  values.resize(size_t(count));
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = float(int32_t(state) >> 8) * (1.f / (1 << 23));
  }
}

}  // namespace

void compare_attention(const Options& options, AttentionPeer& peer, Report& report) {
  // Values in another type of 16 bits, or quantised by head or by block of 32.
  constexpr double kMost[] = {1e-3, 2e-2, 0, 4e-2};
  struct Shape {
    int64_t rows, context;
  };
  constexpr Shape kShapes[] = {{1, 512}, {1, 4096}, {512, 512}, {512, 2048}};
  constexpr bench::Type kTypes[] = {{FTH_F32, "f32"}, {FTH_BF16, "bf16"}, {FTH_I8, "i8"}};
  for (const bench::Model& m : bench::kModels)
    for (const bench::Type& type : kTypes)
      for (int workers : options.workers)
        for (const Shape& shape : kShapes) {
          const char* theirs = peer.stores(type.code);
          if (theirs == nullptr) continue;
          const std::string how = std::string(type.name) + " beside " + theirs + ", " + std::to_string(workers) +
                                  (workers == 1 ? " worker" : " workers");
          const std::string line = std::string(m.name) + " attention " + how;
          const std::string column = std::to_string(shape.rows) + " of " + std::to_string(shape.context);
          if (!options.wants(line + ", " + column)) continue;
          Sequence s{&m, shape.rows, shape.context, {}, {}, {}};
          fill(s.q, s.rows * m.heads * m.head_dim, 1);
          fill(s.k, s.context * m.kv_heads * m.head_dim, 2);
          fill(s.v, s.context * m.kv_heads * m.head_dim, 3);
          const int64_t bytes = int64_t(s.k.size()) * 2 * 4;
          const int64_t layers = s.rows == 1 ? bench::kStream / bytes * 2 + 2 : 2;
          FathomAttention ours;
          if (!ours.load(type.code, s, layers, workers)) continue;
          const auto other = peer.load(type.code, s, layers, workers);
          ours.run(0);
          other->run(0);
          const double d = difference(other->out(), ours.out(), int64_t(s.q.size()));
          if (!(d <= kMost[type.code])) {
            report.wrong(line + ", " + column, d, kMost[type.code]);
            continue;
          }
          report.add("attention", line, column, how, workers,
                     compare(
                         options.seconds, layers, [&](int64_t layer) { ours.run(layer); },
                         [&](int64_t layer) { other->run(layer); }));
        }
}

}  // namespace peers
