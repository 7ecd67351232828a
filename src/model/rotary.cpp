// One small table per axis, over the positions that occur, then spread over the tokens.
#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace aerogel {
namespace {

// The frequencies theta^(-2i/dim) of an axis, and angles in the steps of the model.
class Frequencies {
  public:
    Frequencies(double theta, std::int64_t dim, AngleSteps steps) : steps_(steps) {
        for (std::int64_t i = 0; i < dim / 2; ++i) {
            const double exponent = static_cast<double>(2 * i) / static_cast<double>(dim);
            const auto power = static_cast<float>(std::pow(theta, static_cast<float>(exponent)));
            wide_.push_back(1.0 / std::pow(theta, exponent));
            single_.push_back(1.0F / power);
        }
    }

    double angle(std::int64_t position, std::size_t i) const {
        if (steps_ == AngleSteps::single) return static_cast<float>(position) * single_[i];
        const double angle = static_cast<double>(position) * wide_[i];
        return steps_ == AngleSteps::wide ? angle : static_cast<double>(static_cast<float>(angle));
    }

    std::size_t pairs() const { return wide_.size(); }

  private:
    AngleSteps steps_;
    std::vector<double> wide_;
    std::vector<float> single_;
};

struct AxisTable {
    std::int64_t first = 0;  // position
    std::int64_t pairs = 0;
    std::vector<float> cos, sin;  // [positions, pairs]
};

AxisTable axis_table(const Frequencies& frequencies, std::int64_t first, std::int64_t last) {
    AxisTable table{first, static_cast<std::int64_t>(frequencies.pairs()), {}, {}};
    for (std::int64_t position = first; position <= last; ++position) {
        for (std::size_t i = 0; i < frequencies.pairs(); ++i) {
            const double angle = frequencies.angle(position, i);
            table.cos.push_back(static_cast<float>(std::cos(angle)));
            table.sin.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    return table;
}

// One per axis, from the least position to the greatest.
std::vector<AxisTable> axis_tables(const RotaryAxes& axes, std::span<const std::int64_t> positions) {
    std::vector<AxisTable> tables;
    for (std::size_t axis = 0; axis < axes.dims.size(); ++axis) {
        std::int64_t first = 0, last = -1;
        for (std::size_t i = axis; i < positions.size(); i += axes.dims.size()) {
            first = i == axis ? positions[i] : std::min(first, positions[i]);
            last = i == axis ? positions[i] : std::max(last, positions[i]);
        }
        tables.push_back(axis_table(Frequencies(axes.theta, axes.dims[axis], axes.steps), first, last));
    }
    return tables;
}

}  // namespace

RotaryTable rotary_table(const RotaryAxes& axes, std::span<const std::int64_t> positions, Device device) {
    const std::vector<AxisTable> tables = axis_tables(axes, positions);
    std::int64_t pairs = 0;
    for (const AxisTable& table : tables) pairs += table.pairs;
    const Shape shape = {static_cast<std::int64_t>(positions.size() / tables.size()), pairs};
    std::vector<float> cos, sin;
    cos.reserve(static_cast<std::size_t>(element_count(shape)));
    sin.reserve(cos.capacity());
    for (std::size_t i = 0; i < positions.size(); ++i) {
        const AxisTable& from = tables[i % tables.size()];
        const std::int64_t offset = (positions[i] - from.first) * from.pairs;
        std::copy_n(from.cos.data() + offset, from.pairs, std::back_inserter(cos));
        std::copy_n(from.sin.data() + offset, from.pairs, std::back_inserter(sin));
    }
    return {Tensor::of(cos, shape, device), Tensor::of(sin, shape, device)};
}

void add_grid_positions(const LatentShape& grid, const std::array<std::int64_t, 3>& start,
                        std::vector<std::int64_t>& positions) {
    for (std::int64_t token = 0; token < grid.tokens(); ++token) {
        positions.push_back(start[0] + token / (grid.height * grid.width));
        positions.push_back(start[1] + token / grid.width % grid.height);
        positions.push_back(start[2] + token % grid.width);
    }
}

}  // namespace aerogel
