// Checks and group arithmetic of the formats with float scales.
#include "formats/scaled.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "aerogel/error.h"

namespace aerogel {

float float_scale(const QuantizedTensor& weight, std::int64_t row, std::int64_t group) {
    return static_cast<const float*>(weight.scale.data())[row * Groups(weight).count + group];
}

std::string array_problem(const char* name, const Tensor& array, DType dtype, const Shape& shape) {
    if (array.defined() && array.dtype() == dtype && array.shape() == shape) return "";
    const TensorView wanted = {dtype, shape, nullptr, {}, Device::cpu};
    return std::string(name) + " must be " + wanted.describe() + ", got " +
           (array.defined() ? array.describe() : "nothing");
}

std::string scaled_problem(const QuantizedTensor& weight, DType storage, const Shape& data) {
    std::string problem = array_problem("data", weight.data, storage, data);
    if (!problem.empty()) return problem;
    if (weight.group_size < 0 || (weight.group_size != 0 && weight.columns % weight.group_size != 0)) {
        return "group_size must divide the " + std::to_string(weight.columns) + " columns, got " +
               std::to_string(weight.group_size);
    }
    const Shape scales = {weight.rows, Groups(weight).count};
    problem = array_problem("scale", weight.scale, DType::f32, scales);
    if (problem.empty() && weight.offset.defined()) {
        problem = array_problem("offset", weight.offset, DType::f32, scales);
    }
    if (problem.empty() && weight.dual_scale.defined()) return "only mxfp4_dual has dual scales";
    return problem;
}

void check_encodable(std::string_view name, const TensorView& weight) {
    const std::string prefix = "[" + std::string(name) + "] the weight ";
    if (weight.dtype != DType::f32 || weight.shape.size() != 2 || !weight.contiguous()) {
        throw InvalidArgument(prefix + "must be a contiguous f32 matrix, got " + weight.describe());
    }
    const auto* values = static_cast<const float*>(weight.data);
    const auto* end = values + weight.count();
    const auto* bad = std::find_if_not(values, end, [](float x) { return std::isfinite(x); });
    if (bad != end) {
        throw InvalidArgument(prefix + weight.describe() + " is not finite at element " +
                              std::to_string(bad - values));
    }
}

void check_scales(std::string_view name, const QuantizedTensor& encoded, const TensorView& weight,
                  const std::string& problem) {
    const std::string prefix = "[" + std::string(name) + "] ";
    if (!problem.empty()) throw InvalidArgument(prefix + problem + " (weight " + weight.describe() + ")");
    const auto* scale = encoded.scale.as<float>();
    for (std::int64_t i = 0; i < encoded.scale.count(); ++i) {
        if (!(std::isnormal(scale[i]) && scale[i] > 0)) {
            throw InvalidArgument(prefix + "scales must be positive, got " + std::to_string(scale[i]) +
                                  " at element " + std::to_string(i));
        }
    }
}

QuantizedTensor scaled_tensor(Format format, const TensorView& weight, const Tensor& scale,
                              const Tensor& offset) {
    QuantizedTensor encoded;
    encoded.format = format;
    encoded.rows = weight.dim(0);
    encoded.columns = weight.dim(1);
    const bool matrix = scale.defined() && scale.shape().size() == 2;
    const std::int64_t groups = matrix ? std::max<std::int64_t>(scale.dim(1), 1) : 1;
    encoded.group_size = groups == 1 ? 0 : encoded.columns / groups;
    encoded.scale = scale;
    encoded.offset = offset;
    return encoded;
}

// Magnitudes are ordered as their bits are, and a maximum of integers becomes vector code.
float largest_magnitude(const float* values, std::int64_t count) {
    std::int32_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        largest = std::max(largest, std::bit_cast<std::int32_t>(values[i]) & 0x7FFFFFFF);
    }
    return std::bit_cast<float>(largest);
}

Tensor minmax_scale(const TensorView& weight, std::int64_t group_size, float largest, float smallest) {
    check_encodable("minmax_scale", weight);
    const std::int64_t columns = weight.dim(1);
    if (group_size < 0 || (group_size != 0 && columns % group_size != 0)) {
        throw InvalidArgument("[minmax_scale] group_size must divide the " + std::to_string(columns) +
                              " columns, got " + std::to_string(group_size));
    }
    const std::int64_t width = group_size == 0 ? columns : group_size;
    Tensor scale(DType::f32, {weight.dim(0), width == 0 ? 1 : columns / width});
    const auto* values = static_cast<const float*>(weight.data);
    for (std::int64_t group = 0; group < scale.count(); ++group) {
        scale.mutable_as<float>()[group] =
            std::max(largest_magnitude(values + group * width, width) / largest, smallest);
    }
    return scale;
}

}  // namespace aerogel
