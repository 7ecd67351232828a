// The band at block grain: a block is kept when the nearest tokens of its row and column are in the band.
#include "sparse/patterns/band.h"

#include <algorithm>
#include <cmath>

namespace aerogel {

std::int64_t band_half_width(const SparseGeometry& geometry) {
    const double half_width =
        (1.0 - std::sqrt(geometry.sparsity)) * static_cast<double>(geometry.latent().tokens());
    return static_cast<std::int64_t>(std::floor(half_width));
}

BlockGrid band_blocks(const SparseGeometry& geometry, FunctionRef<std::int64_t(std::int64_t)> position) {
    const std::int64_t blocks = geometry.blocks();
    const std::int64_t half_width = band_half_width(geometry);
    BlockGrid grid(static_cast<std::size_t>(blocks * blocks), 0);
    const auto first = [&](std::int64_t index) { return position(index * geometry.block); };
    const auto last = [&](std::int64_t index) {
        return position(std::min((index + 1) * geometry.block, geometry.video()) - 1);
    };
    for (std::int64_t row = geometry.protected_end(); row < geometry.text_begin(); ++row) {
        for (std::int64_t column = row; column < geometry.text_begin(); ++column) {
            if (column > row && first(column) - last(row) > half_width) break;
            grid[static_cast<std::size_t>(row * blocks + column)] = 1;
            grid[static_cast<std::size_t>(column * blocks + row)] = 1;
        }
    }
    keep_protected(geometry, grid);
    return grid;
}

}  // namespace aerogel
