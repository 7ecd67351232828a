// Spatial heads see their own and the neighbouring frames: a band in t h w order.
#include "sparse/patterns/band.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

BlockGrid spatial_blocks(const SparseGeometry& geometry) {
    return band_blocks(geometry, [](std::int64_t place) { return place; });
}

}  // namespace aerogel
