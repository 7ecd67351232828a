// From the cells that a pattern keeps to the blocks that the kernel computes, and from a mask that is given
// to the cells of a pattern.
#pragma once

#include <vector>

#include "sparse/geometry.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// One grid per map.
using GridOfMap = std::vector<const BlockGrid*>;

/// Uniform blocks over the inside order of both sides. A block is computed when any pair of cells that reach
/// into it is kept.
BlockMask kernel_mask(const HeadRows& q, const SparseSides& sides, const HeadPattern& pattern,
                      const GridOfMap& grids);

/// i8 [batch, heads, query cells, key cells].
Tensor mask_tensor(const HeadRows& q, const GridOfMap& grids, const SparseSides& sides,
                   const HeadPattern& pattern);

/// A given mask as one grid per map. Where the pattern pools, the mask may be finer than its cells.
std::vector<BlockGrid> given_grids(const HeadRows& q, const SparseSides& sides, const TensorView& mask,
                                   const HeadPattern& pattern);

}  // namespace aerogel
