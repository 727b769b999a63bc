#include "../simd/scalar.h"

#include <math.h>

#include "linear.h"

namespace fth::linear::scalar {
namespace {

struct F32 {
  using X = float;
  static float weight(const void* packed, int64_t k, int64_t panel, int64_t i, int64_t column) {
    return static_cast<const float*>(packed)[(panel * k + i) * kPanel + column];
  }
  static float value(float x) { return x; }
};
struct Bf16 {
  using X = uint16_t;
  static float weight(const void* packed, int64_t k, int64_t panel, int64_t i, int64_t column) {
    const int64_t pair = panel * ((k + 1) / 2) + i / 2;
    return float_of_bf16(static_cast<const uint16_t*>(packed)[(pair * kPanel + column) * 2 + i % 2]);
  }
  static float value(uint16_t x) { return float_of_bf16(x); }
};

float activate(int32_t activation, float z) {
  switch (activation) {
    case FTH_RELU: return z < 0 ? 0 : z;
    case FTH_GELU: return 0.5f * z * erfcf(-0.707106781f * z);
    case FTH_GELU_TANH: return 0.5f * z * (1 + tanhf(0.797884561f * (z + 0.044715f * z * z * z)));
    case FTH_SILU: return z / (1 + expf(-z));
    default: return z;
  }
}

template <class T>
void panels(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  const auto product = [&](int64_t row, int64_t panel, int64_t column, int64_t feature) {
    const typename T::X* x = static_cast<const typename T::X*>(a.x) + row * a.x_stride;
    float z = 0;
    for (int64_t i = 0; i < a.k; i++) z += T::weight(a.weight, a.k, panel, i, column) * T::value(x[i]);
    if (a.bias != nullptr) z += a.bias[feature];
    if (a.addend != nullptr) z += a.addend[row * a.addend_stride + feature];
    return z;
  };
  const int64_t end = panel_end * kPanel < a.n ? panel_end * kPanel : a.n;
  for (int64_t place = row_begin; place < row_end; place++) {
    const int64_t row = a.rows == nullptr ? place : a.rows[place];
    for (int64_t j = panel_begin * kPanel; j < end; j++) {
      const int64_t panel = j / kPanel, column = j % kPanel;
      float y = activate(a.activation, product(row, a.glu ? 2 * panel : panel, column, j));
      if (a.glu) y *= product(row, 2 * panel + 1, column, a.n + j);
      if (a.gate != nullptr) y *= a.gate[row];
      if (a.residual != nullptr) y += a.residual[row * a.residual_stride + j];
      if (a.y != nullptr) a.y[row * a.y_stride + j] = y;
      if (a.y_bf16 != nullptr) a.y_bf16[row * a.y_bf16_stride + j] = bf16_of_float(y);
    }
    if (a.y_bf16 != nullptr && end == a.n && a.n % 2 != 0) a.y_bf16[row * a.y_bf16_stride + a.n] = 0;
  }
}

}  // namespace

void panels_f32(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<F32>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_bf16(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<Bf16>(a, panel_begin, panel_end, row_begin, row_end);
}

void round(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < k; i++) y[row * y_stride + i] = bf16_of_float(x[row * x_stride + i]);
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

}  // namespace fth::linear::scalar
