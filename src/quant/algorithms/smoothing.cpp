// SmoothQuant and the search for its exponents.
#include "quant/algorithms/smoothing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "aerogel/error.h"
#include "quant/algorithms/minmax.h"
#include "quant/algorithms/output_error.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

constexpr int kGridSteps = 20;

Tensor column_maxima(const std::vector<Tensor>& matrices) {
    Tensor maxima = Tensor::zeros(DType::f32, {matrices.front().dim(1)});
    auto* out = maxima.mutable_as<float>();
    for (const Tensor& matrix : matrices) {
        const std::int64_t columns = matrix.dim(1);
        const auto* in = matrix.as<float>();
        for (std::int64_t row = 0; row < matrix.dim(0); ++row) {
            for (std::int64_t k = 0; k < columns; ++k) {
                out[k] = std::max(out[k], std::fabs(in[row * columns + k]));
            }
        }
    }
    return maxima;
}

void check_maxima(const Tensor& maxima, std::int64_t columns) {
    if (!maxima.defined() || maxima.dtype() != DType::f32 || maxima.shape() != Shape{columns}) {
        throw InvalidArgument(fmt::format("[smooth] the channel maxima must be f32[{}], got {}", columns,
                                          maxima.defined() ? maxima.describe() : "nothing"));
    }
    for (std::int64_t k = 0; k < columns; ++k) {
        const float value = maxima.as<float>()[k];
        if (std::isfinite(value) && value >= 0.0F) continue;
        throw InvalidArgument(fmt::format(
            "[smooth] the maximum of channel {} must be finite and not negative, got {}", k, value));
    }
}

Tensor scales_from(const Tensor& weight_maxima, const Tensor& maxima, const SmoothingOptions& options) {
    Tensor s(DType::f32, maxima.shape());
    for (std::int64_t k = 0; k < s.count(); ++k) {
        const auto a = static_cast<double>(maxima.as<float>()[k]);
        const auto w = static_cast<double>(weight_maxima.as<float>()[k]);
        const bool unknown = a == 0.0 || w == 0.0;
        const double scale = std::pow(a, options.alpha) / std::pow(w, options.beta);
        s.mutable_as<float>()[k] = unknown ? 1.0F : static_cast<float>(std::max(scale, options.scale_min));
    }
    return s;
}

// x as int8 with one scale and offset for all of it, and back.
Tensor through_int8(const Tensor& x) {
    const std::span<const float> values(x.as<float>(), static_cast<std::size_t>(x.count()));
    const InputScale by = asymmetric_int8(range_of(values), DType::f32);
    Tensor result(DType::f32, x.shape());
    auto* out = result.mutable_as<float>();
    for (const float value : values) {
        const float q = std::clamp(std::nearbyint(value / by.scale + by.offset), -128.0F, 127.0F);
        *out++ = (q - by.offset) * by.scale;
    }
    return result;
}

// Two matrices with the same rows, side by side.
Tensor joined(const Tensor& left, const Tensor& right) {
    const std::int64_t k = left.dim(1);
    Tensor result(DType::f32, {left.dim(0), 2 * k});
    for (std::int64_t row = 0; row < left.dim(0); ++row) {
        float* out = result.mutable_as<float>() + row * 2 * k;
        std::copy_n(left.as<float>() + row * k, k, out);
        std::copy_n(right.as<float>() + row * k, k, out + k);
    }
    return result;
}

// Sum of squared differences between x_q w_q^T and x w^T (x and w smoothed), as one product of 2k columns:
// [x_q, x_q - x] [w_q - w, w]^T is the difference itself, without cancellation between two large sums.
double smoothed_error(const std::vector<Tensor>& weights, const Tensor& x, const Tensor& s) {
    const Tensor x_smoothed = scale_columns(x, mul_scale_of(s));
    const Tensor x_quantized = through_int8(x_smoothed);
    const Tensor x_change = difference(x_quantized, x_smoothed);
    double error = 0.0;
    for (const Tensor& weight : weights) {
        const Tensor smoothed = scale_columns(weight, s);
        const Tensor w_quantized = dequantize(quantize_minmax_int8(smoothed));
        const Tensor w_change = difference(w_quantized, smoothed);
        error += output_energy(joined(x_quantized, x_change), joined(w_change, smoothed));
    }
    return error;
}

}  // namespace

Tensor channel_maxima(const TensorView& inputs) {
    const std::int64_t columns = inputs.shape.size() == 2 ? inputs.dim(1) : 0;
    return column_maxima({float_inputs("smooth", inputs, columns)});
}

Tensor smoothing_scales(const std::vector<TensorView>& weights, const Tensor& maxima,
                        const SmoothingOptions& options) {
    const std::vector<Tensor> floats = float_weights("smooth", weights);
    check_maxima(maxima, floats.front().dim(1));
    if (!(options.scale_min > 0.0)) {
        throw InvalidArgument(fmt::format("[smooth] scale_min must be positive, got {}", options.scale_min));
    }
    return scales_from(column_maxima(floats), maxima, options);
}

SmoothingOptions search_smoothing(const std::vector<TensorView>& weights, const TensorView& inputs,
                                  double scale_min) {
    const std::vector<Tensor> floats = float_weights("smooth", weights);
    const Tensor x = float_inputs("smooth", inputs, floats.front().dim(1));
    const Tensor x_maxima = column_maxima({x});
    const Tensor w_maxima = column_maxima(floats);
    SmoothingOptions best{0.5, 0.5, scale_min};
    double smallest = std::numeric_limits<double>::infinity();
    const auto consider = [&](double alpha, double beta) {
        const SmoothingOptions candidate{alpha, beta, scale_min};
        const double error = smoothed_error(floats, x, scales_from(w_maxima, x_maxima, candidate));
        if (error > smallest) return;
        smallest = error;
        best = candidate;
    };
    for (int i = 0; i <= kGridSteps; ++i) consider(i / 20.0, (kGridSteps - i) / 20.0);
    const double alpha = best.alpha;
    for (int i = 0; i <= kGridSteps; ++i) consider(alpha, i / 20.0);
    return best;
}

Tensor mul_scale_of(const Tensor& s) {
    Tensor result(DType::f32, s.shape());
    for (std::int64_t k = 0; k < s.count(); ++k) result.mutable_as<float>()[k] = 1.0F / s.as<float>()[k];
    return result;
}

}  // namespace aerogel
