// 8-bit floats: decoding, checking and encoding; the two types differ in their conversions only.
#include "formats/fp8.h"

#include <limits>

#include "aerogel/number_types.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

constexpr float kSmallestScale = std::numeric_limits<float>::min();

template <typename Element>
void decode_fp8(const QuantizedTensor& weight, std::int64_t row, float* out) {
    const Groups groups(weight);
    const auto* data = static_cast<const Element*>(weight.data.data()) + row * weight.columns;
    const auto* scale = static_cast<const float*>(weight.scale.data()) + row * groups.count;
    for (std::int64_t i = 0; i < weight.columns; ++i) out[i] = to_float(data[i]) * scale[i / groups.width];
}

std::string fp8_problem(const QuantizedTensor& weight) {
    const DType storage = weight.format == Format::fp8_e4m3 ? DType::f8_e4m3 : DType::f8_e5m2;
    if (weight.offset.defined()) return "8-bit floats have no offset";
    return scaled_problem(weight, storage, {weight.rows, weight.columns});
}

template <typename Element>
QuantizedTensor encode_fp8(const FormatRow& format, const TensorView& weight, const Tensor& scale,
                           Element (*convert)(float, bool)) {
    check_encodable(format.name, weight);
    QuantizedTensor encoded = scaled_tensor(format.format, weight, scale, Tensor());
    encoded.data = Tensor(format.storage, weight.shape);
    check_scales(format.name, encoded, weight, fp8_problem(encoded));
    const Groups groups(encoded);
    const auto* in = static_cast<const float*>(weight.data);
    auto* out = encoded.data.as<Element>();
    for (std::int64_t i = 0; i < encoded.rows * encoded.columns; ++i) {
        const std::int64_t group = i / encoded.columns * groups.count + i % encoded.columns / groups.width;
        out[i] = convert(in[i] / scale.as<float>()[group], true);
    }
    return encoded;
}

}  // namespace

constexpr FormatRow kFp8E4M3Format = {Format::fp8_e4m3, "fp8_e4m3", DType::f8_e4m3, decode_fp8<Float8E4M3>,
                                      fp8_problem};
constexpr FormatRow kFp8E5M2Format = {Format::fp8_e5m2, "fp8_e5m2", DType::f8_e5m2, decode_fp8<Float8E5M2>,
                                      fp8_problem};

QuantizedTensor encode_fp8_e4m3(const TensorView& weight, const Tensor& scale) {
    return encode_fp8(kFp8E4M3Format, weight, scale, to_float8_e4m3);
}

QuantizedTensor encode_fp8_e5m2(const TensorView& weight, const Tensor& scale) {
    return encode_fp8(kFp8E5M2Format, weight, scale, to_float8_e5m2);
}

QuantizedTensor encode_fp8_e4m3(const TensorView& weight, std::int64_t group_size) {
    return encode_fp8_e4m3(weight, minmax_scale(weight, group_size, 448.0F, kSmallestScale));
}

QuantizedTensor encode_fp8_e5m2(const TensorView& weight, std::int64_t group_size) {
    return encode_fp8_e5m2(weight, minmax_scale(weight, group_size, 57344.0F, kSmallestScale));
}

}  // namespace aerogel
