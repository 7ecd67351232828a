// Textural heads see content everywhere: all queries read one fixed subset of the keys, a checkerboard
// of each frame. The kept keys stand together at the front, so that they fill whole blocks.
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

BlockGrid textural_blocks(const SparseGeometry& geometry) {
    const std::int64_t blocks = geometry.blocks();
    const std::int64_t kept_keys = geometry.protected_tokens() + checkerboard_tokens(geometry);
    BlockGrid grid(static_cast<std::size_t>(blocks * blocks), 0);
    for (std::int64_t row = 0; row < blocks; ++row) {
        for (std::int64_t column = 0; column * geometry.block < kept_keys; ++column)
            grid[static_cast<std::size_t>(row * blocks + column)] = 1;
    }
    keep_protected(geometry, grid);
    return grid;
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kTextural = {.name = "textural",
                                      .q_order = raster_order,
                                      .k_order = checkerboard_order,
                                      .cells = inside_cells,
                                      .static_blocks = textural_blocks};
}  // namespace head_patterns

}  // namespace aerogel
