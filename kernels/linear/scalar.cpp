#include <math.h>

#include "codes.h"

namespace fth::linear::scalar {
namespace {

// The chain of one feature of a panel, from a row of x.
struct F32 {
  static float product(const char* w, int64_t column, const void* x, int64_t k) {
    float z = 0;
    for (int64_t i = 0; i < k; i++)
      z += reinterpret_cast<const float*>(w)[i * kPanel + column] * static_cast<const float*>(x)[i];
    return z;
  }
  static constexpr int32_t kType = FTH_F32;
};
struct Bf16 {
  static float product(const char* w, int64_t column, const void* x, int64_t k) {
    float z = 0;
    for (int64_t i = 0; i < k; i++)
      z += float_of_bf16(reinterpret_cast<const uint16_t*>(w)[(i / 2 * kPanel + column) * 2 + i % 2]) *
           float_of_bf16(static_cast<const uint16_t*>(x)[i]);
    return z;
  }
  static constexpr int32_t kType = FTH_BF16;
};

struct F8 {
  static float product(const char* w, int64_t column, const void* x, int64_t k) {
    const uint8_t* code = reinterpret_cast<const uint8_t*>(w);
    float z = 0;
    for (int64_t i = 0; i < k; i++)
      z += float_of_f16(f16_of_e4m3(code[(i / 2 * kPanel + column) * 2 + i % 2])) *
           float_of_bf16(static_cast<const uint16_t*>(x)[i]);
    return z * reinterpret_cast<const float*>(w + panel_bytes(kType, k))[column - kPanel];
  }
  static constexpr int32_t kType = FTH_F8_E4M3;
};

// Dot product of a group's stored weights, their offset taken out, with 32 codes.
int32_t dot_bytes(const uint8_t* w, int64_t column, const int8_t* code) {
  int32_t sum = 0;
  for (int64_t i = 0; i < kGroup; i++) sum += (w[(i / 4 * kPanel + column) * 4 + i % 4] - 128) * code[i];
  return sum;
}
int32_t dot_nibbles(const uint8_t* w, int64_t column, const int8_t* code) {
  int32_t sum = 0;
  for (int64_t i = 0; i < kGroup; i++) {
    const uint8_t both = w[(i / 8 * kPanel + column) * 4 + i % 4];
    sum += ((i % 8 < 4 ? both & 15 : both >> 4) - 8) * code[i];
  }
  return sum;
}

// A span of x whose first element is k `begin`.
struct OfSpan {
  const int8_t* code;
  float scale;
  int64_t end;  // the next one's k
};
OfSpan span_at(const void* x, int32_t type, int64_t begin, int64_t k) {
  const int64_t first = begin / kCodeUnit, left = units(k) - first, count = left < span_of(type) ? left : span_of(type);
  const char* const at = static_cast<const char*>(x) + first * kUnitBytes;
  return {reinterpret_cast<const int8_t*>(at), reinterpret_cast<const Scale*>(at + count * kCodeUnit)->scale,
          begin + count * kCodeUnit};
}

struct I8 {
  static float product(const char* w, int64_t column, const void* x, int64_t k) {
    float z = 0;
    for (int64_t i = 0; i < k;) {
      OfSpan span = span_at(x, kType, i, k);
      int32_t sum = 0;
      for (; i < span.end && i < k; i += kGroup, w += kGroup * kPanel, span.code += kGroup)
        sum += dot_bytes(reinterpret_cast<const uint8_t*>(w), column, span.code);
      z = fmaf(span.scale, float(sum), z);
    }
    return z * reinterpret_cast<const float*>(w)[column];
  }
  static constexpr int32_t kType = FTH_I8;
};

template <int32_t kTypeOf, auto kDot>
struct Groups {
  static float product(const char* w, int64_t column, const void* x, int64_t k) {
    float z = 0;
    for (int64_t i = 0; i < k;) {
      OfSpan span = span_at(x, kType, i, k);
      float t = 0;
      for (; i < span.end && i < k; i += kGroup, w += panel_bytes(kType, kGroup), span.code += kGroup) {
        const uint8_t* stored = reinterpret_cast<const uint8_t*>(w) + kPanel * 2;
        t = fmaf(float(kDot(stored, column, span.code)), float_of_f16(reinterpret_cast<const uint16_t*>(w)[column]), t);
      }
      z = fmaf(span.scale, t, z);
    }
    return z;
  }
  static constexpr int32_t kType = kTypeOf;
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
    const char* w = static_cast<const char*>(a.weight) + panel * panel_bytes(T::kType, a.k);
    float z = T::product(w, column, static_cast<const char*>(a.x) + row * a.x_bytes, a.k);
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
void panels_f8(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  panels<F8>(a, panel_begin, panel_end, row_begin, row_end);
}
void panels_quantised(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  switch (a.type) {
    case FTH_I8: return panels<I8>(a, panel_begin, panel_end, row_begin, row_end);
    case FTH_Q8_0: return panels<Groups<FTH_Q8_0, dot_bytes>>(a, panel_begin, panel_end, row_begin, row_end);
    default: return panels<Groups<FTH_Q4_0, dot_nibbles>>(a, panel_begin, panel_end, row_begin, row_end);
  }
}

void round(const float* x, int64_t x_stride, int64_t k, uint16_t* y, int64_t y_stride, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < k; i++) y[row * y_stride + i] = bf16_of_float(x[row * x_stride + i]);
    if (k % 2 != 0) y[row * y_stride + k] = 0;
  }
}

void quantise(const float* x, int64_t k, int64_t span, char* y, int64_t begin, int64_t end) {
  spans(x, k, span, y, begin, end, [](const float* from, int64_t count, const Span& to) {
    const auto at = [&](int64_t i) { return i < count ? from[i] : 0.f; };
    int32_t most = 0;  // |x| as integers: NaN is above infinity
    for (int64_t i = 0; i < to.units * kCodeUnit; i++) {
      const int32_t bits = int32_t(bits_of_float(at(i)) & 0x7fffffff);
      most = bits > most ? bits : most;
    }
    const float inverse = begin_span(to, most);
    for (int64_t g = 0; g < to.units * kCodeUnit / kGroup; g++) {
      int32_t codes[kGroup];
      for (int64_t i = 0; i < kGroup; i++) {
        const float code = nearbyintf(at(g * kGroup + i) * inverse);
        codes[i] = fabsf(code) <= 127 ? int32_t(code) : -128;  // not a number: the scale says so
        to.code[g * kGroup + i] = int8_t(codes[i]);
      }
      to.scale[g / kGroups].minus_sum[g % kGroups] = minus_sum_of(codes, kGroup);
    }
    end_span(to);
  });
}

}  // namespace fth::linear::scalar
