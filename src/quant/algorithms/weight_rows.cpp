// Checks of what the algorithms take.
#include "quant/algorithms/weight_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "quant/algorithms/model_dtype.h"

namespace aerogel {
namespace {

Tensor float_matrix(std::string_view algorithm, std::string_view what, const TensorView& matrix) {
    if (matrix.shape.size() != 2 || !is_model_dtype(matrix.dtype) || !matrix.contiguous() ||
        matrix.count() == 0) {
        throw InvalidArgument(
            fmt::format("[{}] the {} must be a contiguous f32, bf16 or f16 matrix, not empty, got {}",
                        algorithm, what, matrix.describe()));
    }
    Tensor result = Tensor(matrix.dtype, matrix.shape, matrix.data, nullptr).to(DType::f32);
    const auto* values = result.as<float>();
    const auto* end = values + result.count();
    const auto* bad = std::find_if_not(values, end, [](float x) { return std::isfinite(x); });
    if (bad == end) return result;
    const std::int64_t at = bad - values;
    throw InvalidArgument(fmt::format("[{}] the {} {} is not finite in row {}, column {}", algorithm, what,
                                      matrix.describe(), at / matrix.dim(1), at % matrix.dim(1)));
}

}  // namespace

Tensor float_weight(std::string_view algorithm, const TensorView& weight) {
    return float_matrix(algorithm, "weight", weight);
}

void widen_row(const TensorView& weight, std::int64_t row, float* out) {
    const std::int64_t columns = weight.dim(1);
    const auto* data = static_cast<const std::byte*>(weight.data) +
                       static_cast<std::size_t>(row * columns) * size_of(weight.dtype);
    if (weight.dtype == DType::f32) {
        std::memcpy(out, data, static_cast<std::size_t>(columns) * sizeof(float));
    } else if (weight.dtype == DType::bf16) {
        const auto* in = reinterpret_cast<const BFloat16*>(data);
        for (std::int64_t i = 0; i < columns; ++i) out[i] = to_float(in[i]);
    } else {
        const auto* in = reinterpret_cast<const Float16*>(data);
        for (std::int64_t i = 0; i < columns; ++i) out[i] = to_float(in[i]);
    }
}

Tensor float_inputs(std::string_view algorithm, const TensorView& inputs, std::int64_t columns) {
    Tensor result = float_matrix(algorithm, "recorded input", inputs);
    if (result.dim(1) == columns) return result;
    throw InvalidArgument(
        fmt::format("[{}] the recorded input must have the {} columns of the weight, got {}", algorithm,
                    columns, inputs.describe()));
}

std::vector<Tensor> float_weights(std::string_view algorithm, const std::vector<TensorView>& weights) {
    if (weights.empty()) throw InvalidArgument(fmt::format("[{}] there is no weight", algorithm));
    std::vector<Tensor> result;
    for (const TensorView& weight : weights) {
        result.push_back(float_weight(algorithm, weight));
        if (result.back().dim(1) == result.front().dim(1)) continue;
        throw InvalidArgument(
            fmt::format("[{}] weights that share an input must have equally many columns, "
                        "got {} and {}",
                        algorithm, weights.front().describe(), weight.describe()));
    }
    return result;
}

std::int64_t group_width(std::string_view algorithm, std::int64_t columns, std::int64_t group_size) {
    if (group_size == 0) return columns;
    if (group_size > 0 && columns % group_size == 0) return group_size;
    throw InvalidArgument(fmt::format("[{}] group_size must divide the {} columns (0: the whole row), got {}",
                                      algorithm, columns, group_size));
}

}  // namespace aerogel
