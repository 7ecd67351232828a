// Output errors.
#include "quant/algorithms/output_error.h"

#include "aerogel/linear.h"

namespace aerogel {

double output_energy(const Tensor& x, const Tensor& w) {
    const FloatLinear layer(w, Tensor());
    Tensor y(DType::f32, {x.dim(0), w.dim(0)});
    layer.forward(x, y, StepContext{});
    double sum = 0.0;
    const auto* values = y.as<float>();
    const std::int64_t count = y.count();
    for (std::int64_t i = 0; i < count; ++i) {
        sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    return sum;
}

Tensor scale_columns(const Tensor& a, const Tensor& s) {
    Tensor result(DType::f32, a.shape());
    const std::int64_t columns = a.dim(1);
    const auto* in = a.as<float>();
    const auto* by = s.as<float>();
    auto* out = result.mutable_as<float>();
    for (std::int64_t i = 0; i < result.count(); i += columns) {
        for (std::int64_t k = 0; k < columns; ++k) out[i + k] = in[i + k] * by[k];
    }
    return result;
}

Tensor difference(const Tensor& a, const Tensor& b) {
    Tensor result(DType::f32, a.shape());
    const auto* left = a.as<float>();
    const auto* right = b.as<float>();
    auto* out = result.mutable_as<float>();
    const std::int64_t count = result.count();
    for (std::int64_t i = 0; i < count; ++i) out[i] = left[i] - right[i];
    return result;
}

}  // namespace aerogel
