// Signed gradient descent on all rows at once: one product with x^T x per step.
#include "quant/algorithms/autoround.h"

#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "formats/int4.h"
#include "formats/int8.h"
#include "ops/linear.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

using DoubleMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMatrix = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

constexpr float kSmallestFactor = 0.5F;

// x^T x / tokens, f32 [k,k].
Tensor gram_of(const Tensor& x) {
    const std::int64_t columns = x.dim(1);
    const DoubleMatrix wide = FloatMatrix(x.as<float>(), x.dim(0), columns).cast<double>();
    DoubleMatrix h = DoubleMatrix::Zero(columns, columns);
    h.selfadjointView<Eigen::Lower>().rankUpdate(wide.transpose(), 1.0 / static_cast<double>(x.dim(0)));
    h.triangularView<Eigen::StrictlyUpper>() = h.transpose();
    Tensor result(DType::f32, {columns, columns});
    std::transform(h.data(), h.data() + h.size(), result.mutable_as<float>(),
                   [](double value) { return static_cast<float>(value); });
    return result;
}

float sign_of(double value) {
    return value > 0.0 ? 1.0F : (value < 0.0 ? -1.0F : 0.0F);
}

// One row on its way down.
struct RoundedRow {
    std::vector<float> shift;         // v
    std::vector<IntegerScale> start;  // minmax, of each group
    std::vector<float> factor;
    std::vector<float> decoded;  // W' of this step
    std::vector<float> slope;    // dW'/ds
    std::vector<bool> free;      // inside of the grid: dW'/dv is s, else 0
    std::vector<float> best;     // W', and its scales
    std::vector<float> best_scale;
    double best_loss = std::numeric_limits<double>::infinity();
};

struct Rounding {
    IntegerGrid grid;
    DType dtype = DType::f32;
    std::int64_t width = 0;  // columns of a scale
    std::int64_t columns = 0;
};

RoundedRow start_of(std::span<const float> w, const Rounding& rounding, bool offset) {
    RoundedRow row;
    const auto columns = w.size();
    row.shift.resize(columns);
    row.decoded.resize(columns);
    row.slope.resize(columns);
    row.free.resize(columns);
    for (std::size_t first = 0; first < columns; first += static_cast<std::size_t>(rounding.width)) {
        const auto group = w.subspan(first, static_cast<std::size_t>(rounding.width));
        row.start.push_back(minmax_scale_of(group, rounding.grid, offset));
    }
    row.factor.assign(row.start.size(), 1.0F);
    row.best_scale.resize(row.start.size());
    return row;
}

IntegerScale scale_of(const RoundedRow& row, std::size_t group, const Rounding& rounding) {
    IntegerScale by = row.start[group];
    by.scale *= static_cast<double>(row.factor[group]);
    return storable(by, rounding.dtype);
}

// W' and its derivatives; W' - W goes to `difference`.
void decode(RoundedRow& row, std::span<const float> w, const Rounding& rounding, float* difference) {
    const double lowest = rounding.grid.lowest, highest = -rounding.grid.lowest - 1.0;
    for (std::size_t group = 0; group < row.start.size(); ++group) {
        const IntegerScale by = scale_of(row, group, rounding);
        const std::size_t first = group * static_cast<std::size_t>(rounding.width);
        for (std::size_t k = first; k < first + static_cast<std::size_t>(rounding.width); ++k) {
            const double exact = static_cast<double>(w[k]) / by.scale;
            const double rounded = std::nearbyint(exact + static_cast<double>(row.shift[k]) + by.offset);
            const double code = std::clamp(rounded, lowest, highest);
            row.free[k] = code == rounded;
            row.decoded[k] = static_cast<float>((code - by.offset) * by.scale);
            row.slope[k] = static_cast<float>(code - by.offset - (row.free[k] ? exact : 0.0));
            difference[k] = row.decoded[k] - w[k];
        }
    }
}

void keep_if_best(RoundedRow& row, const float* difference, const float* gradient, const Rounding& rounding) {
    double loss = 0.0;
    for (std::int64_t k = 0; k < rounding.columns; ++k)
        loss += static_cast<double>(difference[k]) * static_cast<double>(gradient[k]);
    if (!(loss < row.best_loss)) return;
    row.best_loss = loss;
    row.best = row.decoded;
    for (std::size_t group = 0; group < row.start.size(); ++group)
        row.best_scale[group] = static_cast<float>(scale_of(row, group, rounding).scale);
}

void step_down(RoundedRow& row, const float* gradient, const Rounding& rounding, float rate) {
    for (std::size_t group = 0; group < row.start.size(); ++group) {
        double of_scale = 0.0;
        const std::size_t first = group * static_cast<std::size_t>(rounding.width);
        for (std::size_t k = first; k < first + static_cast<std::size_t>(rounding.width); ++k) {
            const auto slope = static_cast<double>(gradient[k]);
            of_scale += slope * static_cast<double>(row.slope[k]);
            if (row.free[k]) row.shift[k] = std::clamp(row.shift[k] - rate * sign_of(slope), -0.5F, 0.5F);
        }
        row.factor[group] = std::clamp(row.factor[group] - rate * sign_of(of_scale), kSmallestFactor, 1.0F);
    }
}

PackedLinear product_with(const Tensor& h) {
    QuantizedTensor weight;
    weight.format = Format::f32;
    weight.rows = weight.columns = h.dim(0);
    weight.data = h;
    return {weight, Activation::none};
}

void descend(std::vector<RoundedRow>& rows, const Tensor& w, const Tensor& h, const Rounding& rounding,
             int steps) {
    const PackedLinear product = product_with(h);
    const std::int64_t columns = rounding.columns;
    Tensor difference(DType::f32, w.shape()), gradient(DType::f32, w.shape());
    for (int step = 0; step <= steps; ++step) {
        const auto for_each_row = [&](auto&& f) {
            parallel_for(w.dim(0),
                         [&](std::int64_t i, int) { f(rows[static_cast<std::size_t>(i)], i * columns); });
        };
        for_each_row([&](RoundedRow& row, std::int64_t at) {
            const std::span<const float> values(w.as<float>() + at, static_cast<std::size_t>(columns));
            decode(row, values, rounding, difference.mutable_as<float>() + at);
        });
        product.run(difference, gradient, Activation::none, {});
        const float rate =
            static_cast<float>(steps - step) / (static_cast<float>(steps) * static_cast<float>(steps));
        for_each_row([&](RoundedRow& row, std::int64_t at) {
            keep_if_best(row, difference.as<float>() + at, gradient.as<float>() + at, rounding);
            step_down(row, gradient.as<float>() + at, rounding, rate);
        });
    }
}

}  // namespace

QuantizedTensor quantize_autoround(const TensorView& weight, const TensorView& inputs,
                                   const AutoroundOptions& options) {
    if (options.steps < 1)
        throw InvalidArgument(fmt::format("[autoround] steps must be at least 1, got {}", options.steps));
    Tensor w = float_weight("autoround", weight);
    const std::int64_t rows = w.dim(0), columns = w.dim(1);
    const Rounding rounding = {integer_grid("autoround", options.grid.format), weight.dtype,
                               group_width("autoround", columns, options.grid.group_size), columns};
    const Tensor x = float_inputs("autoround", inputs, columns);
    std::vector<RoundedRow> all;
    for (std::int64_t i = 0; i < rows; ++i)
        all.push_back(start_of({w.as<float>() + i * columns, static_cast<std::size_t>(columns)}, rounding,
                               options.grid.offset));
    descend(all, w, gram_of(x), rounding, options.steps);
    const std::int64_t groups = columns / rounding.width;
    Tensor scale(DType::f32, {rows, groups});
    Tensor offset = options.grid.offset ? Tensor(DType::f32, {rows, groups}) : Tensor();
    for (std::int64_t i = 0; i < rows; ++i) {
        const RoundedRow& row = all[static_cast<std::size_t>(i)];
        if (row.best.empty())
            throw InvalidArgument("[autoround] the error on the recorded input " + inputs.describe() +
                                  " is not finite");
        std::copy(row.best.begin(), row.best.end(), w.mutable_as<float>() + i * columns);
        std::copy(row.best_scale.begin(), row.best_scale.end(), scale.mutable_as<float>() + i * groups);
        for (std::int64_t group = 0; offset.defined() && group < groups; ++group)
            offset.mutable_as<float>()[i * groups + group] =
                static_cast<float>(row.start[static_cast<std::size_t>(group)].offset);
    }
    // The values are on the grid already: this finds their codes again.
    return options.grid.format == Format::int8 ? encode_int8(w, scale, offset)
                                               : encode_int4(w, scale, offset);
}

}  // namespace aerogel
