#include "gate.h"

#include <math.h>

namespace fth::gate {
namespace {

// f(z[j]) over the outputs of one row.
class Function {
 public:
  Function(const Decision& a, const float* z) : function_(a.function), z_(z) {
    if (function_ != FTH_GATE_SOFTMAX) return;
    for (int64_t j = 0; j < a.outputs; j++) largest_ = z[j] > largest_ ? z[j] : largest_;
    for (int64_t j = 0; j < a.outputs; j++) sum_ += weight(j);
  }
  float operator()(int64_t j) const {
    switch (function_) {
      case FTH_GATE_SIGMOID: return 1 / (1 + expf(-z_[j]));
      case FTH_GATE_TANH: return tanhf(z_[j]);
      case FTH_GATE_SOFTMAX: return weight(j) / sum_;
      default: return z_[j];
    }
  }

 private:
  // Equal infinities differ by 0.
  float weight(int64_t j) const { return z_[j] == largest_ ? 1 : expf(z_[j] - largest_); }

  int32_t function_;
  const float* z_;
  float largest_ = -INFINITY, sum_ = 0;
};

}  // namespace

void decide(const Decision& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float* z = a.logits + i * a.outputs;
    const Function f(a, z);
    int32_t choice = 0;
    float best = 0, gate = 0;
    for (int64_t j = 0; j < a.outputs; j++) {
      const float p = a.alpha * f(j), score = p + (a.bias == nullptr ? 0 : a.bias[j]);
      if (a.p != nullptr) a.p[i * a.outputs + j] = p;
      // A NaN ends the search: nothing exceeds it.
      if (j == 0 || score > best) { best = score; gate = p; choice = int32_t(j); }
      else if (isnan(score)) best = score;
    }
    if (a.outputs == 1) {
      choice = z[0] >= a.threshold;
    } else if (isnan(best)) {
      choice = 0;
      gate = a.alpha * f(0);
    }
    a.gate[i] = gate;
    a.choice[i] = choice;
  }
}

namespace scalar {

void logits(const Logits& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const float* x = a.x + i * a.width;
    const int64_t at = a.rows == nullptr ? 0 : a.rows[i].depth * a.stride;
    for (int64_t j = 0; j < a.outputs; j++) {
      float sum = 0;
      for (int64_t k = 0; k < a.width; k++) sum += x[k] * a.w[at + j * a.width + k];
      a.logits[i * a.outputs + j] = sum / a.temperature + (a.b == nullptr ? 0 : a.b[at + j]);
    }
  }
}

}  // namespace scalar
}  // namespace fth::gate
