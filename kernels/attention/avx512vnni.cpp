#include "avx512.h"

namespace fth::attention::avx512vnni {

void whole(const Args& a, const Tile& tile, int64_t part, Workspace& w) {
  whole_tile<Avx512<Form::kInt>>(a, tile, part, w);
}

void piece(const Args& a, const Tile& tile, int64_t part, int64_t piece, Workspace& w, float* state) {
  one_piece<Avx512<Form::kInt>>(a, tile, part, piece, w, state);
}

}  // namespace fth::attention::avx512vnni
