// MXFP8: decoding, checking, encoding. Rounding is done in float32, as the exporters of such files do it, so
// that the bytes are theirs.
#include "formats/mxfp8.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/fp8.h"
#include "formats/mx.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

constexpr int kMxfp8LargestExponent = 8;

std::string mxfp8_problem(const QuantizedTensor& weight) {
    return mx_problem(weight, DType::f8_e4m3, {weight.rows, weight.columns});
}

int mxfp8_exponent(float largest) {
    if (largest == 0) return -127;
    return std::max(static_cast<int>(std::floor(std::log2(largest))) - kMxfp8LargestExponent, -127);
}

// Codes of nearest_e4m3(|value| / 2^exponent) as integers, without branches so that it becomes vector code:
// n steps of 2^(own - 3) with n in 8 .. 16 where the magnitude's own exponent is above -6, and in 0 .. 8
// steps of 2^-9 below it; both are code 8 * (own + 6) + n. A negative value that rounds to zero becomes -0;
// what is or becomes 0 without rounding to E4M3 becomes +0.
void encode_block(const float* values, std::int64_t count, int exponent, Float8E4M3* codes) {
    constexpr int kLargestCode = 0x7E;
    const float inverse = std::ldexp(1.0F, -exponent);
    for (std::int64_t i = 0; i < count; ++i) {
        const float magnitude = std::abs(values[i]) * inverse;
        const int own = std::max((std::bit_cast<std::int32_t>(magnitude) >> 23) - 127, -6);
        const float half_up = magnitude * std::bit_cast<float>((3 - own + 127) << 23) + 0.5F;
        const int code = std::min(8 * (own + 6) + static_cast<int>(half_up), kLargestCode);
        const int sign = values[i] < 0 && magnitude > 0 ? 0x80 : 0;
        codes[i].bits = static_cast<std::uint8_t>(code | sign);
    }
}

}  // namespace

constexpr FormatRow kMxfp8Format = {Format::mxfp8, "mxfp8",  DType::f8_e4m3,
                                    e4m3_elements, mx_scale, mxfp8_problem};

void encode_mxfp8_row(const float* values, std::int64_t row, QuantizedTensor& encoded) {
    auto* data = encoded.data.mutable_as<Float8E4M3>() + row * encoded.columns;
    auto* scale = encoded.scale.mutable_as<std::uint8_t>() + row * encoded.scale.dim(1);
    for (std::int64_t first = 0; first < encoded.columns; first += kMxBlock) {
        const std::int64_t count = std::min(kMxBlock, encoded.columns - first);
        const int exponent = mxfp8_exponent(largest_magnitude(values + first, count));
        scale[first / kMxBlock] = static_cast<std::uint8_t>(exponent + 127);
        encode_block(values + first, count, exponent, data + first);
    }
}

QuantizedTensor encode_mxfp8(const TensorView& weight) {
    check_encodable("mxfp8", weight);
    QuantizedTensor encoded = mx_tensor(Format::mxfp8, weight.dim(0), weight.dim(1));
    const auto* in = static_cast<const float*>(weight.data);
    parallel_for(encoded.rows,
                 [&](std::int64_t row, int) { encode_mxfp8_row(in + row * encoded.columns, row, encoded); });
    return encoded;
}

}  // namespace aerogel
