// int8 weights: decoding, checking, and encoding with given scales.
#include "formats/int8.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {
namespace {

std::string described(const Tensor& tensor) {
    return tensor.defined() ? tensor.describe() : "nothing";
}

TensorView expected(DType dtype, Shape shape) {
    return {dtype, std::move(shape), nullptr, {}, Device::cpu};
}

std::int64_t group_width(const QuantizedTensor& weight) {
    return weight.group_size == 0 ? std::max<std::int64_t>(weight.columns, 1) : weight.group_size;
}

void decode_int8(const QuantizedTensor& weight, std::int64_t row, float* out) {
    const std::int64_t width = group_width(weight);
    const std::int64_t groups = std::max<std::int64_t>(weight.columns, 1) / width;
    const auto* data = static_cast<const std::int8_t*>(weight.data.data()) + row * weight.columns;
    const auto* scale = static_cast<const float*>(weight.scale.data()) + row * groups;
    const auto* offset = static_cast<const float*>(weight.offset.data());
    for (std::int64_t i = 0; i < weight.columns; ++i) {
        const std::int64_t group = i / width;
        const float zero = offset == nullptr ? 0.0F : offset[row * groups + group];
        out[i] = (static_cast<float>(data[i]) - zero) * scale[group];
    }
}

std::string int8_problem(const QuantizedTensor& weight) {
    const TensorView data = expected(DType::i8, {weight.rows, weight.columns});
    if (!weight.data.defined() || weight.data.dtype() != data.dtype || weight.data.shape() != data.shape) {
        return "data must be " + data.describe() + ", got " + described(weight.data);
    }
    const std::int64_t width = group_width(weight);
    if (width < 0 || (weight.group_size != 0 && weight.columns % width != 0)) {
        return "group_size must divide the " + std::to_string(weight.columns) + " columns, got " +
               std::to_string(weight.group_size);
    }
    const std::int64_t groups = std::max<std::int64_t>(weight.columns, 1) / width;
    const TensorView scale = expected(DType::f32, {weight.rows, groups});
    const auto fits = [&](const Tensor& t) {
        return t.defined() && t.dtype() == scale.dtype && t.shape() == scale.shape;
    };
    if (!fits(weight.scale)) return "scale must be " + scale.describe() + ", got " + described(weight.scale);
    if (weight.offset.defined() && !fits(weight.offset)) {
        return "offset must be " + scale.describe() + ", got " + described(weight.offset);
    }
    return "";
}

// Both are finite and the scale is positive, but their quotient may still overflow.
std::int8_t encode_value(float value, float scale, float offset, float low) {
    return static_cast<std::int8_t>(std::clamp(std::nearbyint(value / scale + offset), low, 127.0F));
}

std::int64_t inferred_group_size(const TensorView& weight, const Tensor& scale) {
    const std::int64_t groups =
        scale.defined() && scale.shape().size() == 2 ? std::max<std::int64_t>(scale.dim(1), 1) : 1;
    return groups == 1 ? 0 : weight.dim(1) / groups;
}

}  // namespace

constexpr FormatRow kInt8Format = {Format::int8, "int8", DType::i8, decode_int8, int8_problem};

QuantizedTensor encode_int8(const TensorView& weight, const Tensor& scale, const Tensor& offset, int low) {
    if (weight.dtype != DType::f32 || weight.shape.size() != 2 || !weight.contiguous()) {
        throw InvalidArgument("[int8] the weight must be a contiguous f32 matrix, got " + weight.describe());
    }
    if (low < -128 || low > 127) {
        throw InvalidArgument("[int8] low must be in [-128, 127], got " + std::to_string(low));
    }
    QuantizedTensor encoded;
    encoded.format = Format::int8;
    encoded.rows = weight.dim(0);
    encoded.columns = weight.dim(1);
    encoded.group_size = inferred_group_size(weight, scale);
    encoded.data = Tensor(DType::i8, weight.shape);
    encoded.scale = scale;
    encoded.offset = offset;
    if (const std::string problem = int8_problem(encoded); !problem.empty()) {
        throw InvalidArgument("[int8] " + problem + " (weight " + weight.describe() + ")");
    }
    for (std::int64_t i = 0; i < scale.count(); ++i) {
        if (!(std::isnormal(scale.as<float>()[i]) && scale.as<float>()[i] > 0)) {
            throw InvalidArgument("[int8] scales must be positive, got " +
                                  std::to_string(scale.as<float>()[i]) + " at element " + std::to_string(i));
        }
    }
    const std::int64_t width = group_width(encoded);
    const std::int64_t groups = std::max<std::int64_t>(encoded.columns, 1) / width;
    const auto* in = static_cast<const float*>(weight.data);
    auto* out = encoded.data.as<std::int8_t>();
    for (std::int64_t i = 0; i < encoded.rows * encoded.columns; ++i) {
        const std::int64_t group = i / encoded.columns * groups + i % encoded.columns / width;
        if (!std::isfinite(in[i])) {
            throw InvalidArgument("[int8] the weight " + weight.describe() + " is not finite at element " +
                                  std::to_string(i));
        }
        const float zero = offset.defined() ? offset.as<float>()[group] : 0.0F;
        out[i] = encode_value(in[i], scale.as<float>()[group], zero, static_cast<float>(low));
    }
    return encoded;
}

}  // namespace aerogel
