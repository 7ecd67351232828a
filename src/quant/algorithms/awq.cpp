// The grid search of AWQ.
#include "quant/algorithms/awq.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/algorithms/output_error.h"
#include "quant/algorithms/smoothing.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

constexpr int kSteps = 20;
constexpr double kSmallest = 1e-4;

std::vector<double> mean_magnitudes(const Tensor& x) {
    const std::int64_t tokens = x.dim(0), columns = x.dim(1);
    std::vector<double> means(static_cast<std::size_t>(columns));
    for (std::int64_t i = 0; i < tokens * columns; ++i) {
        means[static_cast<std::size_t>(i % columns)] += std::fabs(static_cast<double>(x.as<float>()[i]));
    }
    for (double& mean : means) mean /= static_cast<double>(tokens);
    return means;
}

Tensor scales_of(const std::vector<double>& means, double ratio) {
    std::vector<double> v;
    for (const double mean : means) v.push_back(std::max(std::pow(mean, ratio), kSmallest));
    const auto [low, high] = std::minmax_element(v.begin(), v.end());
    const double centre = std::sqrt(*low * *high);
    Tensor s(DType::f32, {static_cast<std::int64_t>(v.size())});
    std::transform(v.begin(), v.end(), s.mutable_as<float>(),
                   [&](double x) { return static_cast<float>(x / centre); });
    return s;
}

}  // namespace

AwqResult awq_scales(const TensorView& weight, const TensorView& inputs, const IntegerOptions& options) {
    const Tensor w = float_weight("awq", weight);
    const Tensor x = float_inputs("awq", inputs, w.dim(1));
    const std::vector<double> means = mean_magnitudes(x);
    AwqResult best;
    best.error = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kSteps; ++i) {
        const double ratio = i / static_cast<double>(kSteps);
        const Tensor s = scales_of(means, ratio);
        const Tensor scaled = scale_columns(w, s).to(weight.dtype).to(DType::f32);
        const QuantizedTensor quantized = quantize_minmax_integers("awq", scaled, options, weight.dtype);
        const Tensor effective = scale_columns(dequantize(quantized), mul_scale_of(s));
        const double error = output_energy(x, difference(effective, w));
        if (i == 0) best.plain_error = error;
        if (error < best.error) {
            best.s = s;
            best.ratio = ratio;
            best.error = error;
        }
    }
    return best;
}

}  // namespace aerogel
