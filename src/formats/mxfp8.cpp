// MXFP8: decoding, checking, encoding. Rounding is done in float32, as the exporters of such files do it, so
// that the bytes are theirs.
#include "formats/mxfp8.h"

#include <algorithm>
#include <cmath>

#include "aerogel/number_types.h"
#include "formats/mx.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

constexpr int kLargestExponent = 8;

void decode_mxfp8(const QuantizedTensor& weight, std::int64_t row, float* out) {
    const auto* data = static_cast<const Float8E4M3*>(weight.data.data()) + row * weight.columns;
    const auto* scale = static_cast<const Float8E8M0*>(weight.scale.data()) + row * mx_blocks(weight.columns);
    for (std::int64_t i = 0; i < weight.columns; ++i) {
        out[i] = to_float(data[i]) * to_float(scale[i / kMxBlock]);
    }
}

std::string mxfp8_problem(const QuantizedTensor& weight) {
    return mx_problem(weight, DType::f8_e4m3, {weight.rows, weight.columns});
}

int block_exponent(float largest) {
    if (largest == 0) return -127;
    return std::max(static_cast<int>(std::floor(std::log2(largest))) - kLargestExponent, -127);
}

// A negative value that rounds to zero becomes -0; 0 and -0 become +0.
Float8E4M3 encode_element(float value, int exponent) {
    const float magnitude = std::ldexp(std::abs(value), -exponent);
    if (magnitude == 0) return {0};
    return to_float8_e4m3(std::copysign(nearest_e4m3(magnitude), value));
}

}  // namespace

constexpr FormatRow kMxfp8Format = {Format::mxfp8, "mxfp8", DType::f8_e4m3, decode_mxfp8, mxfp8_problem};

QuantizedTensor encode_mxfp8(const TensorView& weight) {
    check_encodable("mxfp8", weight);
    QuantizedTensor encoded = mx_tensor(Format::mxfp8, weight, DType::f8_e4m3, weight.shape);
    const std::int64_t blocks = mx_blocks(encoded.columns);
    const auto* in = static_cast<const float*>(weight.data);
    for (std::int64_t block = 0; block < encoded.rows * blocks; ++block) {
        const std::int64_t column = block % blocks * kMxBlock;
        const std::int64_t first = block / blocks * encoded.columns + column;
        const std::int64_t count = std::min(kMxBlock, encoded.columns - column);
        const int exponent = block_exponent(largest_magnitude(in + first, count));
        encoded.scale.as<std::uint8_t>()[block] = static_cast<std::uint8_t>(exponent + 127);
        for (std::int64_t i = first; i < first + count; ++i) {
            encoded.data.as<Float8E4M3>()[i] = encode_element(in[i], exponent);
        }
    }
    return encoded;
}

}  // namespace aerogel
