// Min-max of activations, and the ranges of values: see the header for the formulas.
#include "quant/algorithms/minmax.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "aerogel/error.h"
#include "formats/format.h"
#include "quant/algorithms/minmax_weights.h"
#include "quant/algorithms/model_dtype.h"

namespace aerogel {
namespace {

// Sums of the rows' integers; exact in float32 up to 130,000 columns.
std::vector<float> row_sums(const QuantizedTensor& weight) {
    std::vector<float> sums;
    std::vector<std::int8_t> row(static_cast<std::size_t>(weight.columns));
    for (std::int64_t n = 0; n < weight.rows; ++n) {
        format_row(weight.format).integers(weight, {n, 0, weight.columns}, row.data());
        sums.push_back(static_cast<float>(std::accumulate(row.begin(), row.end(), std::int64_t{0})));
    }
    return sums;
}

// A deq_scale that underflowed to 0 gives 0/0 for a bias of 0; that means no bias.
std::int32_t saturate_int32(float x) {
    if (std::isnan(x)) return 0;
    if (x >= 2147483648.0F) return INT32_MAX;
    if (x < -2147483648.0F) return INT32_MIN;
    return static_cast<std::int32_t>(x);
}

void check_not_empty(bool empty, const char* what) {
    if (empty) throw InvalidArgument(fmt::format("[range] there are no {}", what));
}

}  // namespace

QuantizedTensor quantize_minmax_int8(const TensorView& weight) {
    return quantize_minmax(weight, Format::int8, {});
}

InputScale asymmetric_int8(InputRange range, DType dtype) {
    return asymmetric_scale(range, dtype, 8);
}

InputScale asymmetric_scale(InputRange range, DType dtype, int bits) {
    const auto levels = static_cast<float>((1 << bits) - 1), lowest = static_cast<float>(-(1 << (bits - 1)));
    const auto rounded = [dtype](float x) { return round_to(dtype, x); };
    const float low = rounded(std::min(range.min, 0.0F));
    const float high = rounded(std::max(range.max, 0.0F));
    InputScale result;
    result.scale = std::max(rounded(rounded(high / levels) - rounded(low / levels)), kSmallestScale);
    const float offset = std::nearbyint(rounded(-low / result.scale)) + lowest;
    result.offset = std::clamp(offset, lowest, lowest + levels);
    return result;
}

void set_static_scales(QuantizedLinearWeights& layer, const std::vector<InputScale>& inputs, DType dtype) {
    const std::vector<float> sums = row_sums(layer.weight);
    const auto steps = static_cast<std::int64_t>(inputs.size());
    const std::int64_t rows = layer.weight.rows;
    layer.input_scale = Tensor(DType::f32, {steps});
    layer.input_offset = Tensor(DType::f32, {steps});
    layer.quant_bias = Tensor(DType::i32, {steps, rows});
    layer.deq_scale = Tensor(DType::f32, {steps, rows});
    for (std::int64_t step = 0; step < steps; ++step) {
        const InputScale& input = inputs[static_cast<std::size_t>(step)];
        layer.input_scale.mutable_as<float>()[step] = input.scale;
        layer.input_offset.mutable_as<float>()[step] = input.offset;
        auto* quant_bias = layer.quant_bias.mutable_as<std::int32_t>() + step * rows;
        auto* deq_scale = layer.deq_scale.mutable_as<float>() + step * rows;
        for (std::int64_t n = 0; n < rows; ++n) {
            deq_scale[n] = round_to(dtype, input.scale * layer.weight.scale.as<float>()[n]);
            const float start = layer.bias.defined() ? layer.bias.as<float>()[n] / deq_scale[n] : 0.0F;
            const float correction = input.offset * sums[static_cast<std::size_t>(n)];
            quant_bias[n] = saturate_int32(std::nearbyint(start - correction));
        }
    }
}

InputRange range_of(std::span<const float> values) {
    check_not_empty(values.empty(), "values");
    InputRange result{values.front(), values.front()};
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) {
            throw InvalidArgument(fmt::format("[range] value {} of {} is not finite", i, values.size()));
        }
        result = {std::min(result.min, values[i]), std::max(result.max, values[i])};
    }
    return result;
}

double percentile_of(std::vector<float> values, double percentile) {
    check_not_empty(values.empty(), "values");
    if (!(percentile >= 0.0 && percentile <= 100.0)) {
        throw InvalidArgument(fmt::format("[range] the percentile must be in [0, 100], got {}", percentile));
    }
    const double position = static_cast<double>(values.size() - 1) * percentile / 100.0;
    const auto below = static_cast<std::ptrdiff_t>(position);
    std::nth_element(values.begin(), values.begin() + below, values.end());
    const auto low = static_cast<double>(values[static_cast<std::size_t>(below)]);
    const double fraction = position - static_cast<double>(below);
    if (fraction == 0.0) return low;
    const auto high = static_cast<double>(*std::min_element(values.begin() + below + 1, values.end()));
    return low + (high - low) * fraction;
}

}  // namespace aerogel
