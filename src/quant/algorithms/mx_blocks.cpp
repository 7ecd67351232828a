// MX blocks with chosen exponents.
#include "quant/algorithms/mx_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
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
        encoded.data.mutable_as<Float8E4M3>()[row * encoded.columns + column] = to_float8_e4m3(element);
    } else {
        put_nibble(encoded.data.mutable_as<std::uint8_t>() + row * encoded.data.dim(1), column,
                   to_float4_e2m1(element).bits);
    }
}

// The smaller of two numbers that are not negative; as integers, so that it becomes vector code.
float smaller(float a, float b) {
    return std::bit_cast<float>(std::min(std::bit_cast<std::int32_t>(a), std::bit_cast<std::int32_t>(b)));
}

// nearest_e2m1() and nearest_e4m3() of |w| * scale with the sign of w, without branches. What is far above
// the largest element is one of it already.
constexpr float kFar = 1024.0F;

void nearest_e2m1_elements(std::span<const float> block, float scale, float* out) {
    for (std::size_t i = 0; i < block.size(); ++i) {
        const float magnitude = smaller(std::fabs(block[i]) * scale, kFar);
        const auto bits = std::bit_cast<std::int32_t>(magnitude);
        const int two = bits >= std::bit_cast<std::int32_t>(2.0F);
        const int four = bits >= std::bit_cast<std::int32_t>(4.0F);
        const float step = 0.5F + 0.5F * static_cast<float>(two) + static_cast<float>(four);
        const float per_step = 2.0F - static_cast<float>(two) - 0.5F * static_cast<float>(four);
        const float half_up = magnitude * per_step + 0.5F;
        const auto steps = static_cast<float>(static_cast<int>(half_up));
        out[i] = std::copysign(smaller(steps * step, 6.0F), block[i]);
    }
}

void nearest_e4m3_elements(std::span<const float> block, float scale, float* out) {
    for (std::size_t i = 0; i < block.size(); ++i) {
        const float magnitude = smaller(std::fabs(block[i]) * scale, kFar);
        const int own = std::max((std::bit_cast<std::int32_t>(magnitude) >> 23) - 127, -6);
        const auto per_step = std::bit_cast<float>((3 - own + 127) << 23);
        const auto step = std::bit_cast<float>((own - 3 + 127) << 23);
        const float half_up = magnitude * per_step + 0.5F;
        const auto steps = static_cast<float>(static_cast<int>(half_up));
        out[i] = std::copysign(smaller(steps * step, 448.0F), block[i]);
    }
}

// nearest_mx_element() of a block.
void nearest_elements(Format format, std::span<const float> block, int exponent, float* out) {
    constexpr int kNormal = 126;  // 2^-exponent is a normal number
    if (exponent < -kNormal || exponent > kNormal) {
        std::transform(block.begin(), block.end(), out,
                       [&](float w) { return nearest_mx_element(format, w, exponent); });
        return;
    }
    const float scale = std::ldexp(1.0F, -exponent);
    const auto round = format == Format::mxfp8 ? nearest_e4m3_elements : nearest_e2m1_elements;
    round(block, scale, out);
    for (std::size_t i = 0; i < block.size(); ++i) out[i] = block[i] == 0 ? 0.0F : out[i];  // no -0 of -0
}

}  // namespace

float nearest_mx_element(Format format, float w, int exponent) {
    if (w == 0) return 0.0F;
    const float magnitude = std::ldexp(std::fabs(w), -exponent);
    return std::copysign(format == Format::mxfp8 ? nearest_e4m3(magnitude) : nearest_e2m1(magnitude), w);
}

double mx_block_error(Format format, std::span<const float> block, int exponent) {
    std::array<float, kMxBlock> elements;
    nearest_elements(format, block, exponent, elements.data());
    const double scale = std::ldexp(1.0, exponent);
    double error = 0.0;
    for (std::size_t i = 0; i < block.size(); ++i) {
        const double difference = static_cast<double>(block[i]) - static_cast<double>(elements[i]) * scale;
        error += difference * difference;
    }
    return error;
}

QuantizedTensor encode_mx_blocks(Format format, const Tensor& weight,
                                 int (*choose)(std::span<const float> block, float parameter),
                                 float parameter) {
    QuantizedTensor encoded = mx_tensor(format, weight.dim(0), weight.dim(1));
    const std::int64_t blocks = mx_blocks(encoded.columns);
    parallel_for(encoded.rows, [&](std::int64_t row, int) {
        std::array<float, kMxBlock> elements;
        for (std::int64_t first = 0; first < encoded.columns; first += kMxBlock) {
            const std::int64_t count = std::min(kMxBlock, encoded.columns - first);
            const std::span values(weight.as<float>() + row * encoded.columns + first,
                                   static_cast<std::size_t>(count));
            const int chosen = choose(values, parameter);
            const int exponent = std::clamp(chosen, -127, 127);
            encoded.scale.mutable_as<std::uint8_t>()[row * blocks + first / kMxBlock] =
                static_cast<std::uint8_t>(exponent + 127);
            if (chosen < -127) continue;
            nearest_elements(format, values, exponent, elements.data());
            for (std::int64_t i = 0; i < count; ++i) {
                store_element(encoded, row, first + i, elements[static_cast<std::size_t>(i)]);
            }
        }
    });
    return encoded;
}

}  // namespace aerogel
