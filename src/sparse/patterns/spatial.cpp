// Spatial heads see their own and the neighbouring frames: a band in t h w order.
#include "sparse/patterns/band.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

BlockGrid spatial_blocks(const SparseGeometry& geometry) {
    return band_blocks(geometry, [](std::int64_t place) { return place; });
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kSpatial = {.name = "spatial",
                                     .q_order = raster_order,
                                     .k_order = raster_order,
                                     .cells = inside_cells,
                                     .static_blocks = spatial_blocks};
}  // namespace head_patterns

}  // namespace aerogel
