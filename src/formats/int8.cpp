// int8 weights: decoding, checking, and encoding with given scales.
#include "formats/int8.h"

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

const std::int8_t* data_of(const QuantizedTensor& weight, const Slice& slice) {
    return static_cast<const std::int8_t*>(weight.data.data()) + slice.row * weight.columns + slice.first;
}

void int8_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    const std::int8_t* data = data_of(weight, slice);
    for (std::int64_t i = 0; i < slice.count; ++i) out[i] = static_cast<float>(data[i]);
}

void int8_integers(const QuantizedTensor& weight, const Slice& slice, std::int8_t* out) {
    const std::int8_t* data = data_of(weight, slice);
    std::copy(data, data + slice.count, out);
}

std::string int8_problem(const QuantizedTensor& weight) {
    return scaled_problem(weight, DType::i8, {weight.rows, weight.columns});
}

// Both are finite and the scale is positive, but their quotient may still overflow.
std::int8_t encode_value(float value, float scale, float offset, float low) {
    return static_cast<std::int8_t>(std::clamp(std::nearbyint(value / scale + offset), low, 127.0F));
}

}  // namespace

constexpr FormatRow kInt8Format = {Format::int8, "int8",       DType::i8,    int8_elements,
                                   float_scale,  int8_problem, int8_integers};

QuantizedTensor encode_int8(const TensorView& weight, const Tensor& scale, const Tensor& offset, int low) {
    check_encodable("int8", weight);
    if (low < -128 || low > 127) {
        throw InvalidArgument("[int8] low must be in [-128, 127], got " + std::to_string(low));
    }
    QuantizedTensor encoded = scaled_tensor(Format::int8, weight, scale, offset);
    encoded.data = Tensor(DType::i8, weight.shape);
    check_scales("int8", encoded, weight, int8_problem(encoded));
    const Groups groups(encoded);
    const auto* in = static_cast<const float*>(weight.data);
    auto* out = encoded.data.mutable_as<std::int8_t>();
    for (std::int64_t i = 0; i < encoded.rows * encoded.columns; ++i) {
        const std::int64_t group = i / encoded.columns * groups.count + i % encoded.columns / groups.width;
        const float zero = offset.defined() ? offset.as<float>()[group] : 0.0F;
        out[i] = encode_value(in[i], scale.as<float>()[group], zero, static_cast<float>(low));
    }
    return encoded;
}

}  // namespace aerogel
