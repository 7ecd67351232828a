// A dense head among sparse ones: all blocks, frame by frame.
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

BlockGrid all_blocks(const SparseGeometry& side) {
    const auto blocks = static_cast<std::size_t>(side.blocks());
    return BlockGrid(blocks * blocks, 1);
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kDense = {.name = "dense",
                                   .q_order = raster_order,
                                   .k_order = raster_order,
                                   .cells = inside_cells,
                                   .static_blocks = all_blocks};
}  // namespace head_patterns

}  // namespace aerogel
