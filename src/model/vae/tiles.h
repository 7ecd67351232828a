// How a picture is cut into tiles that overlap, and where each counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
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
    /// The places of tile `tile`, first and count, that are its own: those of all tiles make up the axis.
    std::pair<std::int64_t, std::int64_t> own(std::size_t tile, std::int64_t scale) const;
};

struct TileGrid {
    TileAxis lines, columns;

    std::size_t count() const { return lines.starts.size() * columns.starts.size(); }
};

/// picture += tile * down * across at (frame, line, column): f32 [planes, frames, height, width] each,
/// contiguous; weights of the tile's lines and columns. Channels that come last are columns too.
struct BlendedTile {
    MutableView picture;
    TensorView tile;
    std::int64_t frame = 0, line = 0, column = 0;
    std::vector<float> down, across;
};
void blend(const BlendedTile& args, const Context& context);

/// A part of every frame of x [frames, height, width, channels]: a copy.
struct TileRect {
    std::int64_t line = 0, column = 0, height = 0, width = 0;
};
Tensor cropped(const Tensor& x, const TileRect& rect, const Context& context);

/// The group norms behind a tiled part of a VAE, in order. Their statistics are those of the whole picture:
/// all tiles go through the layers up to the first norm of which nothing is known, then from the beginning
/// up to the next one, until all are known. Each pixel counts once, in the tile whose own it is.
class TiledNorms {
  public:
    explicit TiledNorms(const TileGrid& grid) : grid_(grid) {}

    /// A tile goes through the layers from the first one on.
    void begin_tile(std::size_t line, std::size_t column);
    /// What the next norm takes, [groups, 2], for its x [1, height, width, channels]; null where that is
    /// being found out, and then the tile waits.
    const Tensor* moments(const Tensor& x, std::int64_t groups, const Context& context);
    bool waits() const { return waits_; }
    /// All tiles have been through; true when a norm became known, so that they have to go again.
    bool end_pass(Device device);

  private:
    const TileGrid& grid_;
    std::size_t line_ = 0, column_ = 0, next_ = 0;
    bool waits_ = false;
    std::vector<Tensor> known_;
    /// Of the norm that is being found out: pixels so far, means and sums of squared distances of groups.
    double count_ = 0.0;
    std::vector<double> means_, squares_;
};

}  // namespace aerogel
