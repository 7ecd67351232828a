// Where tiles begin, ramps between them, and sums of them.
#include "model/vae/tiles.h"

#include <algorithm>

#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {

TileAxis TileAxis::cut(std::int64_t total, std::int64_t size) {
    TileAxis axis;
    axis.size = std::min(size, total);
    axis.total = total;
    const std::int64_t step = std::max<std::int64_t>(axis.size - axis.size / 4, 1);
    const std::int64_t more = (total - axis.size + step - 1) / step;
    for (std::int64_t i = 0; i <= more; ++i)
        axis.starts.push_back(more == 0 ? 0 : i * (total - axis.size) / more);
    return axis;
}

std::vector<float> TileAxis::weights(std::size_t tile, std::int64_t scale) const {
    const std::int64_t ramp = std::max<std::int64_t>(size / 4, 1) * scale;
    // How far the tile after `first` has come at a place of the axis: 0, then a line, then 1.
    const auto risen = [&](std::size_t first, std::int64_t place) {
        const std::int64_t middle = (starts[first] + starts[first + 1] + size) * scale / 2;
        const double share = static_cast<double>(place - middle) + 0.5 + static_cast<double>(ramp) / 2.0;
        return std::clamp(share / static_cast<double>(ramp), 0.0, 1.0);
    };
    std::vector<float> all;
    for (std::int64_t i = 0; i < size * scale; ++i) {
        const std::int64_t place = starts[tile] * scale + i;
        double weight = tile == 0 ? 1.0 : risen(tile - 1, place);
        if (tile + 1 < starts.size()) weight *= 1.0 - risen(tile, place);
        all.push_back(static_cast<float>(weight));
    }
    return all;
}

void blend(const BlendedTile& args, const Context& context) {
    const TensorView& tile = args.tile;
    const std::int64_t height = tile.dim(2), width = tile.dim(3);
    std::vector<float> both;
    for (const float down : args.down)
        for (const float across : args.across) both.push_back(down * across);
    const Tensor weights = Tensor::of(both, {height, width}, tile.device);
    const std::int64_t line = args.picture.dim(3), frame = args.picture.dim(2) * line;
    for (std::int64_t c = 0; c < tile.dim(0); ++c) {
        for (std::int64_t f = 0; f < tile.dim(1); ++f) {
            const std::int64_t plane = (c * args.picture.dim(1) + args.frame + f) * frame;
            const MutableView to =
                part_of(args.picture, plane + args.line * line + args.column, {height, width}, {line, 1});
            const TensorView from = part_of(tile, (c * tile.dim(1) + f) * height * width, {height, width});
            residual(to, from, weights, context);
        }
    }
}

}  // namespace aerogel
