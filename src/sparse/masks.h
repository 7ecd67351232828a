// A mask that is given, and the cells of a pattern.
#pragma once

#include <optional>
#include <vector>

#include "kernels/planning.h"
#include "sparse/geometry.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// The rows (or columns) of a mask with so many that lie in each cell of a side: where the pattern pools, the
/// mask may be finer than its cells. None where no size of blocks makes so many.
std::optional<std::vector<IndexRange>> mask_parts(const SparseGeometry& side, const HeadPattern& pattern,
                                                  std::int64_t count);

/// A mask for the maps of q, for kernels of a device.
struct GivenMask {
    const HeadRows& q;
    const SparseSides& sides;
    const TensorView& mask;
    const HeadPattern& pattern;
    Device device;
};

/// InvalidArgument where it does not fit.
void check_mask(const GivenMask& given);

}  // namespace aerogel
