// The products of a layer on Fathom and on a peer, from the same numbers.
#pragma once
#include <stdint.h>

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../models.h"
#include "paired.h"

namespace peers {

// The rows of a step that are compared.
constexpr int64_t kRows[] = {1, 4, 16, 128, 512}, kMostRows = 512;

// Memory that begins where a cache line does, as that of engines and of oneDNN does.
template <class T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t(64)); }
  bool operator==(const LineAllocator&) const { return true; }
};

// One product y = W x: x [kMostRows, in], w [out, in].
struct Part {
  int32_t in, out;
  std::vector<float, LineAllocator<float>> x;
  std::vector<float> w;
  std::vector<uint8_t> blocks;  // w in the blocks of q8_0 or q4_0, as in GGUF files; empty for other types
};

// One library with the weights of some products, run one after another.
class Linears {
 public:
  virtual ~Linears() = default;
  // Prepares calls with so many rows and threads.
  virtual void prepare(int64_t rows, int threads) = 0;
  // All products with the weights of this copy.
  virtual void run(int64_t copy) = 0;
  // [rows, out] of a part, where a run writes.
  virtual float* y(int part) = 0;
};

class Peer {
 public:
  virtual ~Peer() = default;
  virtual std::string name() const = 0;
  // `copies` equal weights, all in its own memory; null if it has none of this type (FTH_F32 ...).
  virtual std::unique_ptr<Linears> load(int32_t type, const std::vector<Part>& parts, int64_t copies) = 0;
};

// Every model, type, product, number of rows and of threads.
void compare_linears(const Options& options, Peer& peer, Report& report);

// max |w| / 127 of a row of W is its scale in int8.
float i8_scale(const float* row, int64_t count);
uint16_t to_bf16(float value);

}  // namespace peers
