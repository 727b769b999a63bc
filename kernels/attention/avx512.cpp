#include "avx512.h"

namespace fth::attention::avx512 {

void whole(const Args& a, const Tile& tile, int64_t part, Workspace& w) {
  if (a.kv_type == FTH_F32) whole_tile<Avx512<Form::kF32>>(a, tile, part, w);
  else if (a.kv_type == FTH_BF16) whole_tile<Avx512<Form::kWidened>>(a, tile, part, w);
  else whole_tile<Avx512<Form::kInt>>(a, tile, part, w);
}

void piece(const Args& a, const Tile& tile, int64_t part, int64_t piece, Workspace& w, float* state) {
  if (a.kv_type == FTH_F32) one_piece<Avx512<Form::kF32>>(a, tile, part, piece, w, state);
  else if (a.kv_type == FTH_BF16) one_piece<Avx512<Form::kWidened>>(a, tile, part, piece, w, state);
  else one_piece<Avx512<Form::kInt>>(a, tile, part, piece, w, state);
}

void merge(const Args& a, const Tile& tile, int64_t part, const float* states, int64_t stride, int64_t pieces,
           bool first, float* total) {
  merge_states<Avx512<Form::kF32>>(a, tile, part, states, stride, pieces, first, total);
}

void finish(const Args& a, const Tile& tile, int64_t part, const float* total) {
  write_output<Avx512<Form::kF32>>(a, tile, part, total);
}

}  // namespace fth::attention::avx512
