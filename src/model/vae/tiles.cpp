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

std::pair<std::int64_t, std::int64_t> TileAxis::own(std::size_t tile, std::int64_t scale) const {
    const auto border = [&](std::size_t after) {  // between a tile and the one before it
        return (starts[after - 1] + size + starts[after]) * scale / 2;
    };
    const std::int64_t start = starts[tile] * scale;
    const std::int64_t first = tile == 0 ? 0 : border(tile);
    const std::int64_t last = tile + 1 == starts.size() ? total * scale : border(tile + 1);
    return {first - start, last - first};
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

Tensor cropped(const Tensor& x, const TileRect& rect, const Context& context) {
    const Shape shape = {x.dim(0), rect.height, rect.width, x.dim(3)};
    const Shape strides = strides_of(x.view());
    Tensor y(DType::f32, shape, x.device());
    copy(part_of(x.view(), rect.line * strides[1] + rect.column * strides[2], shape, strides), y, context);
    return y;
}

void TiledNorms::begin_tile(std::size_t line, std::size_t column) {
    line_ = line;
    column_ = column;
    next_ = 0;
    waits_ = false;
}

const Tensor* TiledNorms::moments(const Tensor& x, std::int64_t groups, const Context& context) {
    if (next_ < known_.size()) return &known_[next_++];
    waits_ = true;
    const auto [line, height] = grid_.lines.own(line_, x.dim(1) / grid_.lines.size);
    const auto [column, width] = grid_.columns.own(column_, x.dim(2) / grid_.columns.size);
    const Tensor part = cropped(x, {line, column, height, width}, context);
    const TensorView rows = reshaped(part.view(), {height * width, x.dim(3)});
    const std::vector<float> found = group_moments(rows, groups, context).values();
    means_.resize(static_cast<std::size_t>(groups), 0.0);
    squares_.resize(means_.size(), 0.0);
    // Chan, Golub and LeVeque, 1979: moments of two parts become those of both.
    const auto pixels = static_cast<double>(height * width), both = count_ + pixels;
    for (std::size_t group = 0; group < means_.size(); ++group) {
        const double off = found[2 * group] - means_[group];
        means_[group] += off * pixels / both;
        squares_[group] += found[2 * group + 1] * pixels + off * off * count_ * pixels / both;
    }
    count_ = both;
    return nullptr;
}

bool TiledNorms::end_pass(Device device) {
    if (count_ == 0.0) return false;
    std::vector<float> moments;
    for (std::size_t group = 0; group < means_.size(); ++group) {
        moments.push_back(static_cast<float>(means_[group]));
        moments.push_back(static_cast<float>(squares_[group] / count_));
    }
    known_.push_back(Tensor::of(moments, {static_cast<std::int64_t>(means_.size()), 2}, device));
    count_ = 0.0;
    means_.clear();
    squares_.clear();
    return true;
}

}  // namespace aerogel
