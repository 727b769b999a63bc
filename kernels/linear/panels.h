// What the vector kernels share: the walk over panels, blocks of k and rows, and what follows a product. Templates over
//   V   vectors of a target: Vector of ../simd
//   T   its register tile: T::run advances the chains of up to T::kRows rows over a block of T::kBlockSteps of a panel
// The float types look alike here: a *step* is 4 bytes of an x row (one fp32 or two bf16) and T::kStepBytes of a panel,
// 256 or, of f8, 128. The quantised types have a walk of their own in quantised.h.
#pragma once
#include "linear.h"

namespace fth::linear {
namespace {

// 1 / (1 + exp(-z)) within a few ulp; below -88 it is 0.
template <class V>
typename V::F sigmoid(typename V::F z) {
  const typename V::F one = V::set(1.f);
  const typename V::F y = V::div(one, V::add(one, V::exp(V::sub(V::set(0.f), z))));
  return V::select(V::below(z, V::set(-88.f)), V::set(0.f), y);
}

// erfc(|z| / sqrt 2) / 2 = exp(-z^2 / 2) u P(u), u = 1 / (1 + |z| / sqrt 8): a fit of erfcx(t) / 2 over t < 10 with a
// relative error below 3e-7. For negative z it is the normal distribution function itself, without cancellation.
template <class V>
typename V::F gelu(typename V::F z) {
  constexpr float kP[] = {0.141043201f, 0.141187668f,  0.121551804f, 0.101343781f,  -0.0133136921f,
                          0.139034897f, -0.243601143f, 0.142288089f, -0.0295346081f};
  const typename V::F one = V::set(1.f), u = V::div(one, V::fma(V::abs(z), V::set(0.353553391f), one));
  typename V::F p = V::set(kP[8]);
  for (int i = 7; i >= 0; i--) p = V::fma(p, u, V::set(kP[i]));
  p = V::mul(V::mul(p, u), V::exp(V::mul(V::mul(z, z), V::set(-0.5f))));
  return V::mul(z, V::select(V::below(z, V::set(0.f)), p, V::sub(one, p)));
}

// Of a panel's features of some rows, z [rows][kPanel]. One loop over all, so that divisions overlap.
template <class V>
[[gnu::noinline]] void activate(int32_t activation, float* z, int64_t rows) {
  const auto each = [&](auto function) {
#pragma GCC unroll 4
    for (float* const end = z + rows * kPanel; z < end; z += V::kLanes)
      V::store(z, V::kLanes, function(V::load(z, V::kLanes)));
  };
  switch (activation) {
    case FTH_RELU: return each([](auto v) { return V::max(V::set(0.f), v); });
    case FTH_GELU: return each([](auto v) { return gelu<V>(v); });
    case FTH_GELU_TANH:  // (1 + tanh(w)) / 2 = sigmoid(2 w)
      return each([](auto v) {
        const typename V::F cubic = V::fma(V::mul(v, v), V::set(0.0713548163f), V::set(1.59576912f));
        return V::mul(v, sigmoid<V>(V::mul(v, cubic)));
      });
    case FTH_SILU: return each([](auto v) { return V::mul(v, sigmoid<V>(v)); });
    default: return;
  }
}

// Finished chains of some rows over a panel, [rows][kPanel], which `scales` [kPanel], if there are any, multiply.
struct Chains {
  float* z;
  const float* scales;
};

// From finished chains to the output: of a panel's features, for the rows at `place` and behind it. With glu `values`
// are the second half's. kWhole: the panel has all its features. Short where little is asked for: it runs in the shadow
// of the products before it.
template <class V, bool kWhole>
[[gnu::noinline]] void finish(const Args& a, int64_t panel, int64_t place, int64_t count, Chains chains,
                              Chains values) {
  constexpr int64_t kVectors = kPanel / V::kLanes;
  const int64_t first = panel * kPanel, columns = kWhole ? kPanel : a.n - first;
  const auto lanes = [&](int64_t n) { return kWhole ? V::kLanes : columns - n * V::kLanes; };
  const auto each = [&](auto body) {
#pragma GCC unroll 8
    for (int64_t n = 0; n < kVectors; n++)
      if (lanes(n) > 0) body(n);
  };
  const auto row_at = [&](int64_t i) { return a.rows == nullptr ? place + i : int64_t(a.rows[place + i]); };
  const auto preactivations = [&](const Chains& of, int64_t feature) {
    if (of.scales == nullptr && a.bias == nullptr && a.addend == nullptr) return;
    for (int64_t i = 0; i < count; i++) {
      float* const z = of.z + i * kPanel;
      const float* const addend = a.addend == nullptr ? nullptr : a.addend + row_at(i) * a.addend_stride + feature;
      each([&](int64_t n) {
        const auto load = [&](const float* x) { return V::load(x + n * V::kLanes, lanes(n)); };
        typename V::F v = V::load(z + n * V::kLanes, V::kLanes);
        if (of.scales != nullptr) v = V::mul(v, load(of.scales));
        if (a.bias != nullptr) v = V::add(v, load(a.bias + feature));
        if (addend != nullptr) v = V::add(v, load(addend));
        V::store(z + n * V::kLanes, V::kLanes, v);
      });
    }
  };
  preactivations(chains, first);
  if (a.glu) preactivations(values, a.n + first);
  if (a.activation != FTH_IDENTITY) activate<V>(a.activation, chains.z, count);
  for (int64_t i = 0; i < count; i++) {
    const int64_t row = row_at(i);
    typename V::F y[kVectors];
#pragma GCC unroll 8
    for (int64_t n = 0; n < kVectors; n++) y[n] = V::load(chains.z + i * kPanel + n * V::kLanes, V::kLanes);
    if (a.glu)
      each([&](int64_t n) { y[n] = V::mul(y[n], V::load(values.z + i * kPanel + n * V::kLanes, V::kLanes)); });
    if (a.gate != nullptr) {
      const typename V::F gate = V::set(a.gate[row]);
      each([&](int64_t n) { y[n] = V::mul(y[n], gate); });
    }
    if (a.residual != nullptr) {
      const float* from = a.residual + row * a.residual_stride + first;
      each([&](int64_t n) { y[n] = V::add(y[n], V::load(from + n * V::kLanes, lanes(n))); });
    }
    if (a.y != nullptr) {
      float* to = a.y + row * a.y_stride + first;
      each([&](int64_t n) { V::store(to + n * V::kLanes, lanes(n), y[n]); });
    }
    if (a.y_bf16 != nullptr) {
      uint16_t* to = a.y_bf16 + row * a.y_bf16_stride + first;
      each([&](int64_t n) { V::store_bf16(to + n * V::kLanes, lanes(n), y[n]); });
      if (first + columns == a.n && a.n % 2 != 0) to[columns] = 0;
    }
  }
}

constexpr int64_t kStepBytes = kPanel * 4;  // but of f8
// One register tile: `steps` steps of some rows.
struct Task {
  const char* x[6];
  const char* w;
  int64_t steps;
  bool fresh;         // the chains start here; else they continue from z
  const char* fetch;  // weights to fetch meanwhile,
  int fetch_lines;    // so many lines of 64 bytes per step: 0, 1, 2 or 4
  float* z;           // [rows][kPanel]
};

// Part `share` of the fetching of the next block, if it is not negative: so many lines of every step.
struct Fetch {
  int64_t share;
  int lines;
};

// A panel's weights as they are stored. Where several tiles read a block they fetch the next one meanwhile, so that
// memory is never idle. A single tile reads the weights as one stream, which the processor prefetches best by itself
// unless the tile passes over the block several times (T::kPasses).
template <class T>
struct Stored {
  static constexpr int64_t kBytes = T::kStepBytes;
  static constexpr int kLines = kBytes / 64;
  const char* w;

  // A few tiles are done with a block before the next one has come from memory, unless both are small and in the L1
  // cache.
  static int64_t block_steps(int64_t tiles) { return few(tiles) ? (16 << 10) / kBytes : T::kBlockSteps; }
  static bool few(int64_t tiles) { return tiles > 1 && tiles <= kLines; }

  const char* block(int64_t begin, int64_t) const { return w + begin * kBytes; }
  static Fetch fetch(int64_t tile, int64_t tiles, int64_t size) {
    if (tiles == 1) return {0, T::kPasses && size > 1 ? kLines : 0};
    if (tiles == 2) return {tile, kLines / 2};
    return {tile - 1, few(tiles) ? kLines / 2 : 1};
  }
};

// All chains of `rows` rows over a panel into z; done(first, size) follows the last block of each tile, so that what it
// does overlaps the next tile.
template <class T, class W, class Done>
void product(const char* const* x, int64_t rows, const W& weights, int64_t steps, float* z, Done done) {
  const int64_t tiles = (rows + T::kRows - 1) / T::kRows, most = W::block_steps(tiles);
  const int64_t blocks = (steps + most - 1) / most;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t begin = steps * block / blocks, end = steps * (block + 1) / blocks;
    const char* w = weights.block(begin, end);
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t first = rows * tile / tiles, size = rows * (tile + 1) / tiles - first;
      Task task{};
      for (int64_t r = 0; r < size; r++) task.x[r] = x[first + r] + begin * 4;
      task.w = w;
      task.steps = end - begin;
      task.fresh = block == 0;
      const Fetch fetch = W::fetch(tile, tiles, size);
      task.fetch_lines = fetch.share >= 0 && (fetch.share + 1) * fetch.lines <= W::kBytes / 64 ? fetch.lines : 0;
      task.fetch = weights.w + end * W::kBytes + fetch.share * fetch.lines * 64 * task.steps;
      task.z = z + first * kPanel;
      T::run(int(size), task);
      if (block + 1 == blocks) done(first, size);
    }
  }
}

// Some panels on some rows. P::product(x, rows, panel, k, z, done) puts all chains of a panel into z, [rows][kPanel].
template <class V, class P>
void panels(const Args& a, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t row_end) {
  alignas(64) float z[2][kRowChunk * kPanel];
  const char* x[kRowChunk];
  const auto row_at = [&](int64_t place) { return a.rows == nullptr ? place : int64_t(a.rows[place]); };
  const int64_t halves = a.glu ? 2 : 1, panel_bytes = P::panel_bytes(a.k);
  for (int64_t first = row_begin; first < row_end; first += kRowChunk) {
    const int64_t rows = row_end - first < kRowChunk ? row_end - first : kRowChunk;
    for (int64_t r = 0; r < rows; r++) x[r] = static_cast<const char*>(a.x) + row_at(first + r) * a.x_bytes;
    for (int64_t p = panel_begin; p < panel_end; p++) {
      const float* scales[2] = {};
      for (int64_t half = 0; half < halves; half++) {
        const char* w = static_cast<const char*>(a.weight) + (p * halves + half) * panel_bytes;
        scales[half] = P::scales(w, a.k);
        P::product(x, rows, w, a.k, z[half],
                   [&](int64_t done, int64_t size) {
                     if (half + 1 < halves) return;
                     const auto end = (p + 1) * kPanel <= a.n ? finish<V, true> : finish<V, false>;
                     end(a, p, first + done, size, {z[0] + done * kPanel, scales[0]},
                         {z[1] + done * kPanel, scales[1]});
                   });
      }
    }
  }
}

// Panels of fp32 (kPerStep = 1) and bf16 (2).
template <class T, int kPerStep>
struct Steps {
  static int64_t steps(int64_t k) { return (k + kPerStep - 1) / kPerStep; }
  static int64_t panel_bytes(int64_t k) { return steps(k) * kStepBytes; }
  static const float* scales(const char*, int64_t) { return nullptr; }
  template <class Done>
  static void product(const char* const* x, int64_t rows, const char* w, int64_t k, float* z, Done done) {
    fth::linear::product<T>(x, rows, Stored<T>{w}, steps(k), z, done);
  }
};

// Panels of f8. E: its register tile, for few rows. More have a block decoded once, E::decode, and read it as bf16 with
// the tile T.
template <class E, class T>
struct EightBits {
  static int64_t panel_bytes(int64_t k) { return fth::linear::panel_bytes(FTH_F8_E4M3, k); }
  static const float* scales(const char* w, int64_t k) {
    return reinterpret_cast<const float*>(w + panel_bytes(k)) - kPanel;
  }

  struct Decoded {
    static constexpr int64_t kBlockSteps = 128, kBytes = E::kStepBytes;  // 32 KiB: it stays in the L1 cache
    static int64_t block_steps(int64_t) { return kBlockSteps; }
    const char* w;
    char* room;

    const char* block(int64_t begin, int64_t end) const {
      E::decode(w + begin * kBytes, end - begin, room);
      return room;
    }
    static Fetch fetch(int64_t tile, int64_t tiles, int64_t) { return {tile, tiles > 1 ? 1 : 2}; }
  };

  template <class Done>
  static void product(const char* const* x, int64_t rows, const char* w, int64_t k, float* z, Done done) {
    const int64_t steps = (k + 1) / 2;
    if (rows <= E::kRows) return fth::linear::product<E>(x, rows, Stored<E>{w}, steps, z, done);
    alignas(64) char room[Decoded::kBlockSteps * T::kStepBytes];
    fth::linear::product<T>(x, rows, Decoded{w, room}, steps, z, done);
  }
};

}  // namespace
}  // namespace fth::linear
