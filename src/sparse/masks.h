// From a mask that is given to the cells of a pattern.
#pragma once

#include "sparse/geometry.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// A mask for the maps of q.
struct GivenMask {
    const HeadRows& q;
    const SparseSides& sides;
    const TensorView& mask;
    const HeadPattern& pattern;
};

/// Puts it to [maps, query cells, key cells] bytes of 0 and 1. Where the pattern pools, the mask may be finer
/// than its cells. InvalidArgument where it does not fit.
void place_given(const GivenMask& given, std::uint8_t* grid);

}  // namespace aerogel
