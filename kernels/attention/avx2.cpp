#include "avx2.h"

namespace fth::attention::avx2 {
namespace {

template <class F>
void with_form(int32_t kv_type, F f) {
  if (kv_type == FTH_F32) f(Avx2<Form::kF32>{});
  else if (kv_type == FTH_BF16) f(Avx2<Form::kWidened>{});
  else f(Avx2<Form::kInt>{});
}

}  // namespace

void whole(const Args& a, const Tile& tile, int64_t part, Workspace& w) {
  with_form(a.kv_type, [&](auto form) { whole_tile<decltype(form)>(a, tile, part, w); });
}

void piece(const Args& a, const Tile& tile, int64_t part, int64_t piece, Workspace& w, float* state) {
  with_form(a.kv_type, [&](auto form) { one_piece<decltype(form)>(a, tile, part, piece, w, state); });
}

void merge(const Args& a, const Tile& tile, int64_t part, const float* states, int64_t stride, int64_t pieces,
           bool first, float* total) {
  merge_states<Avx2<Form::kF32>>(a, tile, part, states, stride, pieces, first, total);
}

void finish(const Args& a, const Tile& tile, int64_t part, const float* total) {
  write_output<Avx2<Form::kF32>>(a, tile, part, total);
}

}  // namespace fth::attention::avx2
