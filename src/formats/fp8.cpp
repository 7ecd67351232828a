// 8-bit floats: decoding, checking and encoding; the two types differ in their conversions only.
#include "formats/fp8.h"

#include <array>
#include <limits>

#include "aerogel/number_types.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

constexpr float kSmallestScale = std::numeric_limits<float>::min();

template <typename Element>
std::array<float, 256> make_values() {
    std::array<float, 256> values;
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = to_float(Element{static_cast<std::uint8_t>(i)});
    }
    return values;
}

template <typename Element>
void fp8_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    static const std::array<float, 256> values = make_values<Element>();
    const auto* data =
        static_cast<const std::uint8_t*>(weight.data.data()) + slice.row * weight.columns + slice.first;
    for (std::int64_t i = 0; i < slice.count; ++i) out[i] = values[data[i]];
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
    auto* out = encoded.data.mutable_as<Element>();
    for (std::int64_t i = 0; i < encoded.rows * encoded.columns; ++i) {
        const std::int64_t group = i / encoded.columns * groups.count + i % encoded.columns / groups.width;
        out[i] = convert(in[i] / scale.as<float>()[group], true);
    }
    return encoded;
}

}  // namespace

void e4m3_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    fp8_elements<Float8E4M3>(weight, slice, out);
}

constexpr FormatRow kFp8E4M3Format = {Format::fp8_e4m3, "fp8_e4m3",  DType::f8_e4m3,
                                      e4m3_elements,    float_scale, fp8_problem};
constexpr FormatRow kFp8E5M2Format = {Format::fp8_e5m2,         "fp8_e5m2",  DType::f8_e5m2,
                                      fp8_elements<Float8E5M2>, float_scale, fp8_problem};

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
