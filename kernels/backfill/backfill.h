// K and V of many (depth, layer) pairs, the targets, from one product that ends in the pool. Rows of W are
// [target]{k, v}[kv_heads][head_dim], target = depth * layers + layer.
//
// Where a head takes several strips of W (linear/tiles.h) and a pair that RoPE turns would lie in two of them, K's rows
// are in another order, in which each strip has whole pairs: first elements, then second ones, then what does not turn.
#pragma once
#include <cstdint>

#include "kv/kv.h"
#include "linear/linear.h"

namespace fth::backfill {

// How K's heads turn; pairs: 0 if they do not.
struct Turn {
  int64_t pairs;
  bool interleaved;  // as rope::Args
};

// All pointers on the device.
namespace cuda {
// Whether product() takes this: all other pools and weights go through y in memory. Devices need products of
// warpgroups (Workspace::wgmma) beside it.
bool takes(int32_t weight_type, const kv::Pool&, const Turn&);
// The dimension of a head of K whose row of W is number `place` of the head's, if product() takes it.
int dim_at(const Turn&, int place);

struct Stores {
  kv::Pool pool;
  const int32_t* entry;  // [rows of x, depths]; -1 skips
  int64_t depths;
  Turn turn;
  const float* table;    // rope::Args'
};
// K and V of rows 0, 1, ... of x into their entries: the bits are those of product, rotation and write one by one.
void product(const linear::Args&, const Stores&, const linear::Workspace&, void* stream);
}  // namespace cuda

}  // namespace fth::backfill
