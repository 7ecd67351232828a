// MX blocks with chosen exponents.
#include "quant/algorithms/mx_blocks.h"

#include <algorithm>
#include <cmath>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/mx.h"
#include "formats/nibbles.h"

namespace aerogel {
namespace {

// A zero weight becomes +0, a negative one that rounds to zero -0.
void store_element(QuantizedTensor& encoded, std::int64_t row, std::int64_t column, float element) {
    if (encoded.format == Format::mxfp8) {
        encoded.data.as<Float8E4M3>()[row * encoded.columns + column] = to_float8_e4m3(element);
    } else {
        put_nibble(encoded.data.as<std::uint8_t>() + row * encoded.data.dim(1), column,
                   to_float4_e2m1(element).bits);
    }
}

}  // namespace

float nearest_mx_element(Format format, float w, int exponent) {
    if (w == 0) return 0.0F;
    const float magnitude = std::ldexp(std::fabs(w), -exponent);
    return std::copysign(format == Format::mxfp8 ? nearest_e4m3(magnitude) : nearest_e2m1(magnitude), w);
}

double mx_block_error(Format format, std::span<const float> block, int exponent) {
    double error = 0.0;
    for (const float w : block) {
        const double element = nearest_mx_element(format, w, exponent);
        const double difference = static_cast<double>(w) - std::ldexp(element, exponent);
        error += difference * difference;
    }
    return error;
}

QuantizedTensor encode_mx_blocks(Format format, const Tensor& weight,
                                 int (*choose)(std::span<const float> block, float parameter),
                                 float parameter) {
    const bool bytes = format == Format::mxfp8;
    const Shape& shape = weight.shape();
    QuantizedTensor encoded = mx_tensor(format, weight, bytes ? DType::f8_e4m3 : DType::u8,
                                        bytes ? shape : nibble_shape(shape[0], shape[1]));
    const std::int64_t blocks = mx_blocks(encoded.columns);
    parallel_for(encoded.rows, [&](std::int64_t row, int) {
        for (std::int64_t block = 0; block < blocks; ++block) {
            const std::int64_t first = block * kMxBlock;
            const std::int64_t count = std::min(kMxBlock, encoded.columns - first);
            const float* values = weight.as<float>() + row * encoded.columns + first;
            const int chosen = choose({values, static_cast<std::size_t>(count)}, parameter);
            const int exponent = std::clamp(chosen, -127, 127);
            encoded.scale.as<std::uint8_t>()[row * blocks + block] =
                static_cast<std::uint8_t>(exponent + 127);
            if (chosen < -127) continue;
            for (std::int64_t i = 0; i < count; ++i) {
                store_element(encoded, row, first + i, nearest_mx_element(format, values[i], exponent));
            }
        }
    });
    return encoded;
}

}  // namespace aerogel
