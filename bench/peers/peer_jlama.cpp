// Jlama's native kernels, from the jar of jlama-native, called as Jlama calls them: a piece of 128 output features per
// call, pieces shared among threads. The threads are ours and spin, so that the cost of Jlama's own pool does not
// count.
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <thread>

#include "linears.h"

namespace {

// JLAMA_AVX2=1 in the environment chooses its kernels for AVX2 where the machine has more.
constexpr int kHasF16c = 2, kHasAvx2 = 4;

struct Kernels {
  void (*f32)(int flags, const float* a, int a_offset, const float* b, int b_offset, float* r, int r_offset, int m,
              int n0, int n, int k, int lda, int ldb, int ldc);
  void (*bf16)(int flags, const uint16_t* a, int a_offset, const uint16_t* b, int b_offset, uint16_t* short_r, float* r,
               int r_offset, int m, int n0, int n, int k, int lda, int ldb, int ldc);
  void (*q8_q4)(int flags, const float* a_scale, const int8_t* a, int a_offset, const float* b_scale, const uint8_t* b,
                int b_offset, float* r, int r_offset, int m, int n0, int n, int k, int lda, int lda_scale, int ldb,
                int ldb_scale, int ldc);
  int flags;
};

// Runs a job on `threads` threads, which spin for the next one a moment and then yield.
class Team {
 public:
  explicit Team(int threads) : threads_(threads) {
    for (int i = 1; i < threads; i++) helpers_.emplace_back([this, i] { help(i); });
  }
  ~Team() {
    stop_ = true;
    epoch_++;
    epoch_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }
  void run(const std::function<void(int)>& job) {
    job_ = &job;
    left_ = threads_ - 1;
    epoch_++;
    epoch_.notify_all();
    job(0);
    while (left_ != 0) __builtin_ia32_pause();
  }
  int threads() const { return threads_; }

 private:
  void help(int index) {
    constexpr int kSpins = 2000;
    for (uint32_t seen = 0;;) {
      for (int i = 0; i < kSpins && epoch_ == seen; i++) __builtin_ia32_pause();
      epoch_.wait(seen);
      seen = epoch_;
      if (stop_) return;
      (*job_)(index);
      left_--;
    }
  }
  int threads_;
  std::vector<std::thread> helpers_;
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<uint32_t> epoch_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> stop_{false};
};

class JlamaLinears : public peers::Linears {
 public:
  JlamaLinears(const Kernels& kernels, int32_t type, const std::vector<peers::Part>& parts, int64_t copies)
      : kernels_(kernels), type_(type) {
    for (const peers::Part& part : parts) products_.emplace_back(part, type, copies);
  }
  void prepare(int64_t rows, int threads) override {
    rows_ = int(rows);
    if (team_ == nullptr || team_->threads() != threads) {
      team_.reset();
      team_ = std::make_unique<Team>(threads);
    }
  }
  void run(int64_t copy) override {
    constexpr int kPiece = 128;
    for (Product& p : products_) {
      const int pieces = (p.part.out + kPiece - 1) / kPiece;
      std::atomic<int> next{0};
      team_->run([&](int) {
        for (int i; (i = next++) < pieces;) piece(p, copy, i * kPiece, std::min(kPiece, p.part.out - i * kPiece));
      });
    }
  }
  float* y(int part) override { return products_[size_t(part)].y.data(); }

 private:
  struct Product {
    Product(const peers::Part& p, int32_t type, int64_t copies) : part(p), y(size_t(peers::kMostRows) * size_t(p.out)) {
      if (type == FTH_BF16) {
        for (float value : p.x) x16.push_back(peers::to_bf16(value));
        for (float value : p.w) w16.push_back(peers::to_bf16(value));
        repeat(w16, copies);
      } else if (type == FTH_Q4_0) {
        quantise_x();
        constexpr size_t kBlock = 18, kNibbles = 16;
        for (size_t at = 0; at < p.blocks.size(); at += kBlock) {
          _Float16 d;
          memcpy(&d, &p.blocks[at], 2);
          scale.push_back(float(d));
          w8.insert(w8.end(), &p.blocks[at + 2], &p.blocks[at + 2] + kNibbles);
        }
        repeat(scale, copies);
        repeat(w8, copies);
      } else {
        w = p.w;
        repeat(w, copies);
      }
    }
    template <class T>
    static void repeat(std::vector<T>& values, int64_t copies) {
      const size_t one = values.size();
      values.resize(one * size_t(copies));
      for (int64_t i = 1; i < copies; i++) memcpy(&values[size_t(i) * one], &values[0], one * sizeof(T));
    }
    void quantise_x() {
      constexpr size_t kBlock = 32;
      for (size_t at = 0; at < part.x.size(); at += kBlock) {
        const float d = peers::i8_scale(&part.x[at], kBlock);
        x_scale.push_back(d);
        for (size_t i = 0; i < kBlock; i++) x8.push_back(int8_t(lrintf(part.x[at + i] / d)));
      }
    }
    const peers::Part& part;
    std::vector<float> y, w, scale, x_scale;
    std::vector<uint16_t> x16, w16;
    std::vector<int8_t> x8;
    std::vector<uint8_t> w8;
  };

  void piece(Product& p, int64_t copy, int first, int count) const {
    const int in = p.part.in, out = p.part.out;
    const int64_t weights = int64_t(in) * out * copy;
    if (type_ == FTH_F32)
      kernels_.f32(kernels_.flags, p.part.x.data(), 0, p.w.data() + weights, 0, p.y.data(), 0, rows_, first, count, in,
                   in, in, out);
    else if (type_ == FTH_BF16)
      kernels_.bf16(kernels_.flags, p.x16.data(), 0, p.w16.data() + weights, 0, nullptr, p.y.data(), 0, rows_, first,
                    count, in, in, in, out);
    else
      kernels_.q8_q4(kernels_.flags, p.x_scale.data(), p.x8.data(), 0, p.scale.data() + weights / 32,
                     p.w8.data() + weights / 2, 0, p.y.data(), 0, rows_, first, count, in, in, in / 32, in / 2, in / 32,
                     out);
  }

  const Kernels& kernels_;
  int32_t type_;
  int rows_ = 0;
  std::vector<Product> products_;
  std::unique_ptr<Team> team_;
};

class Jlama : public peers::Peer {
 public:
  explicit Jlama(const Kernels& kernels) : kernels_(kernels) {}
  std::string name() const override { return (kernels_.flags & kHasAvx2) != 0 ? "Jlama native, AVX2" : "Jlama native"; }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type == FTH_I8 || type == FTH_Q8_0) return nullptr;
    return std::make_unique<JlamaLinears>(kernels_, type, parts, copies);
  }

 private:
  const Kernels& kernels_;
};

template <class F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  const char* path = getenv("JLAMA_LIBRARY");
  void* library = path == nullptr ? nullptr : dlopen(path, RTLD_NOW);
  Kernels kernels{};
  if (library == nullptr || !find(library, "gemm_f32", kernels.f32) || !find(library, "gemm_bf16", kernels.bf16) ||
      !find(library, "gemm_q8_q4", kernels.q8_q4)) {
    fprintf(stderr, "Jlama is left out: JLAMA_LIBRARY does not name libjlama.so of jlama-native.\n");
    return 1;
  }
  const char* avx2 = getenv("JLAMA_AVX2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && (avx2 == nullptr || strcmp(avx2, "1") != 0);
  kernels.flags = kHasF16c | (avx512 ? 0 : kHasAvx2);
  Jlama peer(kernels);
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
}
