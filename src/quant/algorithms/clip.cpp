// Integer scales that clip.
#include "quant/algorithms/clip.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "aerogel/error.h"
#include "quant/algorithms/minmax.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

constexpr int kRatios = 100;

void refuse_offset(std::string_view algorithm, const IntegerOptions& options) {
    if (options.offset) throw InvalidArgument(fmt::format("[{}] is symmetric, offsets are not", algorithm));
}

// An empty upper tail (all but few weights are 0) leaves a percentile of 0; the extremes are better then.
IntegerScale choose_percentile(std::span<const float> values, IntegerGrid grid, const ScaleChoice& how) {
    std::vector<float> magnitudes;
    for (const float value : values) magnitudes.push_back(std::fabs(value));
    const double reach = percentile_of(magnitudes, how.parameter);
    if (reach == 0.0) return minmax_scale_of(values, grid, false);
    return {reach / grid.largest, 0.0};
}

IntegerScale choose_mse(std::span<const float> values, IntegerGrid grid, const ScaleChoice& how) {
    const IntegerScale minmax = storable(minmax_scale_of(values, grid, false), how.dtype);
    IntegerScale best = minmax;
    double smallest = integer_error(values, best, grid);
    for (int i = 1; i < kRatios; ++i) {
        const double ratio = static_cast<double>(kRatios - i) / kRatios;
        const IntegerScale candidate = storable({minmax.scale * ratio, 0.0}, how.dtype);
        const double error = integer_error(values, candidate, grid);
        if (error < smallest) {
            smallest = error;
            best = candidate;
        }
    }
    return best;
}

}  // namespace

QuantizedTensor quantize_percentile(const TensorView& weight, const IntegerOptions& options,
                                    double percentile) {
    if (!(percentile > 0.0 && percentile <= 100.0)) {
        throw InvalidArgument(
            fmt::format("[percentile] the percentile must be in (0, 100], got {}", percentile));
    }
    refuse_offset("percentile", options);
    return encode_integer_groups("percentile", float_weight("percentile", weight), options,
                                 {choose_percentile, weight.dtype, false, percentile});
}

QuantizedTensor quantize_mse_clip(const TensorView& weight, const IntegerOptions& options) {
    refuse_offset("mse_clip", options);
    return encode_integer_groups("mse_clip", float_weight("mse_clip", weight), options,
                                 {choose_mse, weight.dtype, false, 0.0});
}

}  // namespace aerogel
