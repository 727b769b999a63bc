#include "linears.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "fathom_linears.h"

namespace peers {
namespace {

// How far two right results may lie apart: sums in another order; activations rounded to bf16 or not; activations
// quantised by row, by block or as a whole.
double most_difference(int32_t type) { return type == FTH_F32 ? 1e-5 : type == FTH_BF16 ? 5e-3 : 3e-2; }

// Sums of three uniform numbers: near enough to what weights and activations look like.
template <class Floats>
void fill(Floats& values, float scale, uint32_t state) {
  const auto next = [&] {
    state = state * 1664525u + 1013904223u;
    return float(int32_t(state) >> 8) * (1.f / (1 << 23));
  };
  for (float& value : values) value = scale * (next() + next() + next());
}

void append_half(std::vector<uint8_t>& out, float value) {
  const _Float16 half = _Float16(value);
  uint8_t bytes[2];
  memcpy(bytes, &half, 2);
  out.insert(out.end(), bytes, bytes + 2);
}

std::vector<uint8_t> blocks_of(const std::vector<float>& w, int32_t type) {
  constexpr int kBlock = 32;
  std::vector<uint8_t> out;
  out.reserve(w.size() / kBlock * (type == FTH_Q8_0 ? 34 : 18));
  for (size_t at = 0; at < w.size(); at += kBlock) {
    const float* v = &w[at];
    float extreme = 0;
    for (int i = 0; i < kBlock; i++)
      if (fabsf(v[i]) > fabsf(extreme)) extreme = v[i];
    const float d = type == FTH_Q8_0 ? fabsf(extreme) / 127 : extreme / -8, inverse = d == 0 ? 0 : 1 / d;
    append_half(out, d);
    const auto nibble = [&](int i) { return std::clamp(int(lrintf(v[i] * inverse)) + 8, 0, 15); };
    if (type == FTH_Q8_0)
      for (int i = 0; i < kBlock; i++) out.push_back(uint8_t(int8_t(lrintf(v[i] * inverse))));
    else
      for (int i = 0; i < kBlock / 2; i++) out.push_back(uint8_t(nibble(i) | nibble(i + kBlock / 2) << 4));
  }
  return out;
}

// Gate and up are one product of twice the width, without the activation: that is what the peers have.
Part make_part(const bench::Model& m, int which, int32_t type) {
  const int32_t heads = m.heads * m.head_dim, kv = 2 * m.kv_heads * m.head_dim;
  const int32_t in[] = {m.hidden, heads, m.hidden, m.inner}, out[] = {heads + kv, m.hidden, 2 * m.inner, m.hidden};
  Part part{in[which], out[which], {}, {}, {}};
  part.x.resize(size_t(kMostRows) * size_t(part.in));
  part.w.resize(size_t(part.out) * size_t(part.in));
  fill(part.x, 1, 1);
  fill(part.w, 1 / sqrtf(float(part.in)), 2);
  if (type == FTH_Q8_0 || type == FTH_Q4_0) part.blocks = blocks_of(part.w, type);
  return part;
}

double bytes_per_weight(int32_t type) {
  return type == FTH_F32 ? 4 : type == FTH_BF16 ? 2 : type == FTH_Q4_0 ? 18. / 32 : 34. / 32;
}

struct Case {
  std::string name, type;  // "TinyLlama down f32"
  int64_t copies;
};

void compare_case(const Options& options, const Case& c, const std::vector<Part>& parts, double most, Linears& fathom,
                  Linears& peer, Report& report) {
  for (int workers : options.workers)
    for (bool streamed : {false, true})
      for (int64_t rows : kRows) {
        const std::string column = std::to_string(rows) + (rows == 1 ? " row" : " rows");
        const std::string how = std::to_string(workers) + (workers == 1 ? " worker, " : " workers, ") +
                                (streamed ? "streamed" : "resident");
        const std::string line = c.name + ", " + how;
        if (!options.wants(line + ", " + column)) continue;
        fathom.prepare(rows, workers);
        peer.prepare(rows, workers);
        for (size_t i = 0; i < parts.size(); i++)
          std::fill_n(peer.y(int(i)), rows * parts[i].out, NAN);  // no old results
        fathom.run(0);
        peer.run(0);
        double worst = 0;
        for (size_t i = 0; i < parts.size(); i++) {
          const double d = difference(peer.y(int(i)), fathom.y(int(i)), rows * parts[i].out);
          if (!(d <= worst)) worst = d;
        }
        if (!(worst <= most)) {
          report.wrong(line + ", " + column, worst, most);
          continue;
        }
        report.add("linear", line, column, c.type + ", " + how, workers,
                   compare(
                       options.seconds, streamed ? c.copies : 1, [&](int64_t copy) { fathom.run(copy); },
                       [&](int64_t copy) { peer.run(copy); }));
      }
}

// False if nothing of this case can be asked for: a word that is in no line of it.
bool may_want(const Options& options, const std::string& name) {
  Options most = options;
  std::erase_if(most.only, [](const std::string& word) {
    return word.find("row") != word.npos || word.find("worker") != word.npos || word == "resident" ||
           word == "streamed";
  });
  return most.wants(name);
}

}  // namespace

float i8_scale(const float* row, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = std::max(most, fabsf(row[i]));
  return most / 127;
}

uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void compare_linears(const Options& options, Peer& peer, Report& report) {
  for (const bench::Model& m : bench::kModels)
    for (const bench::Type& type : bench::kTypes) {
      if (type.code == FTH_F8_E4M3) continue;  // no peer has that
      for (int which = -1; which < bench::kProductCount; which++) {
        const std::string product = which < 0 ? "block" : bench::kProducts[which];
        Case c{std::string(m.name) + " " + product + " " + type.name, type.name, 0};
        if (!may_want(options, c.name)) continue;
        std::vector<Part> parts;
        double bytes = 0;
        for (int i = 0; i < bench::kProductCount; i++)
          if (which < 0 || which == i) {
            parts.push_back(make_part(m, i, type.code));
            bytes += double(parts.back().w.size()) * bytes_per_weight(type.code);
          }
        c.copies = std::max<int64_t>(2, int64_t(double(bench::kStream) / bytes) + 1);
        const auto ours = load_fathom(type.code, parts, c.copies);
        if (ours == nullptr) break;
        const auto theirs = peer.load(type.code, parts, c.copies);
        if (theirs == nullptr) break;
        compare_case(options, c, parts, most_difference(type.code), *ours, *theirs, report);
      }
    }
}

}  // namespace peers
