// Spatial heads see their own and the neighbouring frames: a band in t h w order.
#include "sparse/patterns/band.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

TokenLayout spatial_layout(const SparseGeometry& geometry) {
    return {raster_order(geometry), raster_order(geometry)};
}

BlockGrid spatial_blocks(const SparseGeometry& geometry) {
    return band_blocks(geometry, [](std::int64_t place) { return place; });
}

}  // namespace aerogel
