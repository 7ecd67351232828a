// How a picture is cut into tiles that overlap, and where each counts.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// Tiles along one axis, of equal size. Two neighbours change places on a ramp in the middle of what they
/// share, so that either counts only some way behind its border.
struct TileAxis {
    std::vector<std::int64_t> starts;
    std::int64_t size = 0;   ///< of each
    std::int64_t total = 0;  ///< of the axis

    /// As few tiles of `size` as share a quarter with their neighbours at least. One where all fits.
    static TileAxis cut(std::int64_t total, std::int64_t size);
    /// How much tile `tile` counts at its places, `scale` of which are one of the axis; tiles sum to 1.
    std::vector<float> weights(std::size_t tile, std::int64_t scale) const;
};

struct TileGrid {
    TileAxis lines, columns;

    std::size_t count() const { return lines.starts.size() * columns.starts.size(); }
};

/// picture += tile * down * across at (frame, line, column): f32 [3, frames, height, width] each, contiguous;
/// weights of the tile's lines and columns.
struct BlendedTile {
    MutableView picture;
    TensorView tile;
    std::int64_t frame = 0, line = 0, column = 0;
    std::vector<float> down, across;
};
void blend(const BlendedTile& args, const Context& context);

}  // namespace aerogel
