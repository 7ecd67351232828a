// Checks and block arithmetic of the MX formats.
#include "formats/mx.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"

namespace aerogel {

float mx_scale(const QuantizedTensor& weight, std::int64_t row, std::int64_t group) {
    return to_float(
        static_cast<const Float8E8M0*>(weight.scale.data())[row * mx_blocks(weight.columns) + group]);
}

std::string mx_problem(const QuantizedTensor& weight, DType storage, const Shape& data) {
    std::string problem = array_problem("data", weight.data, storage, data);
    if (!problem.empty()) return problem;
    if (weight.group_size != kMxBlock) {
        return "group_size must be 32, got " + std::to_string(weight.group_size);
    }
    problem = array_problem("scale", weight.scale, DType::u8, {weight.rows, mx_blocks(weight.columns)});
    if (!problem.empty()) return problem;
    if (weight.offset.defined()) return "MX formats have no offset";
    if (weight.dual_scale.defined() && weight.format != Format::mxfp4_dual) {
        return "only mxfp4_dual has dual scales";
    }
    const auto* scales = weight.scale.as<std::uint8_t>();
    const auto* end = scales + weight.scale.count();
    const auto* bad = std::find(scales, end, std::uint8_t{255});
    if (bad != end) return "scale byte 255 (NaN) at element " + std::to_string(bad - scales);
    return "";
}

float nearest_e4m3(float magnitude) {
    if (magnitude == 0) return 0.0F;
    const int own = std::max(std::ilogb(magnitude), -6);
    return std::min(std::ldexp(std::floor(std::ldexp(magnitude, 3 - own) + 0.5F), own - 3), 448.0F);
}

float nearest_e2m1(float magnitude) {
    const float step = magnitude >= 4 ? 2.0F : magnitude >= 2 ? 1.0F : 0.5F;
    return std::min(std::floor(magnitude / step + 0.5F) * step, 6.0F);
}

int mx_exponent(float largest, int largest_exponent) {
    return largest == 0 ? -127 : std::max(std::ilogb(largest) - largest_exponent, -127);
}

int mxfp4_exponent_of(float largest, const Mxfp4Scale& scale) {
    const int plain = mx_exponent(largest, 2);
    if (scale.algorithm == 0 || largest == 0) return plain;
    if (scale.dst_type_max == 0 || scale.dst_type_max == 6 || scale.dst_type_max == 7) {
        const float end = scale.dst_type_max == 7 ? 7.0F : 6.0F;
        return std::ldexp(largest, -plain) > end ? plain + 1 : plain;
    }
    const auto bits = std::bit_cast<std::uint32_t>(largest / scale.dst_type_max);
    const auto exponent = static_cast<int>(bits >> 23);
    const std::uint32_t mantissa = bits & 0x7FFFFF;  // of a subnormal number: its share of 2^-126
    const bool up = exponent == 0 ? mantissa > 0x400000 : exponent < 254 && mantissa > 0;
    return exponent + static_cast<int>(up) - 127;
}

void check_mxfp4_scale(std::string_view op, const Mxfp4Scale& scale) {
    const auto fail = [&](const std::string& what) {
        throw InvalidArgument("[" + std::string(op) + "] " + what);
    };
    if (scale.algorithm != 0 && scale.algorithm != 2)
        fail("mxfp4_scale_alg must be 0 or 2, got " + std::to_string(scale.algorithm));
    const bool fits = scale.dst_type_max == 0 || (scale.dst_type_max >= 6 && scale.dst_type_max <= 12);
    if (scale.algorithm == 2 && !fits)
        fail("mxfp4_dst_type_max must be 0 or in [6, 12], got " + std::to_string(scale.dst_type_max));
}

QuantizedTensor mx_tensor(Format format, std::int64_t rows, std::int64_t columns) {
    QuantizedTensor encoded;
    encoded.format = format;
    encoded.rows = rows;
    encoded.columns = columns;
    encoded.group_size = kMxBlock;
    encoded.data = format == Format::mxfp8 ? Tensor::zeros(DType::f8_e4m3, {rows, columns})
                                           : Tensor::zeros(DType::u8, nibble_shape(rows, columns));
    encoded.scale = Tensor::zeros(DType::u8, {rows, mx_blocks(columns)});
    if (format == Format::mxfp4_dual) {
        encoded.dual_scale = Tensor::zeros(DType::f32, {rows, mx_dual_blocks(columns)});
    }
    return encoded;
}

}  // namespace aerogel
