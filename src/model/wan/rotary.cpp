// 3-D rotary tables: one small table per axis, then spread over the grid.
#include "model/wan/rotary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <vector>

namespace aerogel {
namespace {

constexpr double kTheta = 10000.0;

struct AxisTable {
    std::int64_t pairs;
    std::vector<float> cos;  // [positions, pairs]
    std::vector<float> sin;
};

AxisTable axis_table(std::int64_t positions, std::int64_t dim) {
    AxisTable table{dim / 2, {}, {}};
    for (std::int64_t p = 0; p < positions; ++p) {
        for (std::int64_t i = 0; i < table.pairs; ++i) {
            const double exponent = static_cast<double>(2 * i) / static_cast<double>(dim);
            const double angle = static_cast<double>(p) * (1.0 / std::pow(kTheta, exponent));
            table.cos.push_back(static_cast<float>(std::cos(angle)));
            table.sin.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    return table;
}

}  // namespace

RotaryTable rotary_table(const LatentShape& grid, std::int64_t head_dim, Device device) {
    const std::int64_t space_dim = 2 * (head_dim / 6);
    const std::array<AxisTable, 3> axes = {axis_table(grid.frames, head_dim - 2 * space_dim),
                                           axis_table(grid.height, space_dim),
                                           axis_table(grid.width, space_dim)};
    const Shape shape = {grid.tokens(), head_dim / 2};
    std::vector<float> cos, sin;
    cos.reserve(static_cast<std::size_t>(element_count(shape)));
    sin.reserve(cos.capacity());
    for (std::int64_t token = 0; token < grid.tokens(); ++token) {
        const std::array<std::int64_t, 3> position = {token / (grid.height * grid.width),
                                                      token / grid.width % grid.height, token % grid.width};
        for (std::size_t axis = 0; axis < 3; ++axis) {
            const AxisTable& from = axes[axis];
            const std::int64_t offset = position[axis] * from.pairs;
            std::copy_n(from.cos.data() + offset, from.pairs, std::back_inserter(cos));
            std::copy_n(from.sin.data() + offset, from.pairs, std::back_inserter(sin));
        }
    }
    return {Tensor::of(cos, shape, device), Tensor::of(sin, shape, device)};
}

}  // namespace aerogel
