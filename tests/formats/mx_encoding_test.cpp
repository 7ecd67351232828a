// The encoders of MX rows, written for vector code, against the rounding functions one value at a time.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "aerogel/number_types.h"
#include "formats/mx.h"
#include "formats/mxfp4.h"
#include "formats/mxfp8.h"
#include "formats/nibbles.h"

namespace aerogel {
namespace {

// The code of a value in its block, from the definition.
int code_of(Format format, float value, int exponent) {
    const float magnitude = std::ldexp(std::fabs(value), -exponent);
    if (format == Format::mxfp8) {
        if (magnitude == 0) return 0;
        return to_float8_e4m3(std::copysign(nearest_e4m3(magnitude), value)).bits;
    }
    if (value == 0) return 0;
    return to_float4_e2m1(std::copysign(nearest_e2m1(magnitude), value)).bits;
}

// Rows of every exponent: random mantissas, and all values around ties and powers of two.
Tensor hard_values() {
    constexpr std::int64_t kRows = 2 * 277, kColumns = 96;
    Tensor values(DType::f32, {kRows, kColumns});
    std::mt19937 random(1);
    const float ties[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F, 6.0F, 4.0F, 2.0F, 1.0F, 7.0F, 0.0F};
    for (std::int64_t i = 0; i < values.count(); ++i) {
        const int exponent = static_cast<int>(i / kColumns / 2) - 149;
        const bool even = i / kColumns % 2 == 0;
        const float mantissa = even ? static_cast<float>(random() % 4096) / 2048.0F : ties[random() % 13];
        float value = std::ldexp(mantissa, exponent - static_cast<int>(random() % (even ? 14 : 3)));
        const auto step = static_cast<int>(random() % 3) - 1;
        if (step != 0) value = std::nextafter(value, step < 0 ? 0.0F : 2 * value);
        if (!std::isfinite(value)) value = 0x1.fffffep127F;
        values.mutable_as<float>()[i] = random() % 2 == 0 ? value : -value;
    }
    return values;
}

TEST(MxEncoding, EqualsTheDefinition) {
    const Tensor values = hard_values();
    const std::int64_t columns = values.dim(1);
    for (const Format format : {Format::mxfp8, Format::mxfp4}) {
        const QuantizedTensor encoded = format == Format::mxfp8 ? encode_mxfp8(values) : encode_mxfp4(values);
        std::int64_t wrong = 0;
        for (std::int64_t i = 0; i < values.count(); ++i) {
            const std::int64_t row = i / columns, column = i % columns;
            const int exponent = encoded.scale.as<std::uint8_t>()[row * 3 + column / kMxBlock] - 127;
            const int got = format == Format::mxfp8
                                ? encoded.data.as<Float8E4M3>()[i].bits
                                : nibble_at(encoded.data.as<std::uint8_t>() + row * columns / 2, column);
            wrong += static_cast<int>(got != code_of(format, values.as<float>()[i], exponent));
        }
        EXPECT_EQ(wrong, 0) << to_string(format);
    }
}

TEST(MxEncoding, RowsEndAnywhere) {
    for (std::int64_t columns = 1; columns <= 70; ++columns) {
        Tensor values(DType::f32, {2, columns});
        for (std::int64_t i = 0; i < values.count(); ++i) {
            values.mutable_as<float>()[i] = static_cast<float>(i % 13 - 6);
        }
        const QuantizedTensor encoded = encode_mxfp4(values);
        const Tensor decoded = dequantize(encoded);
        for (std::int64_t i = 0; i < values.count(); ++i) {
            const float value = values.as<float>()[i];
            EXPECT_EQ(decoded.as<float>()[i], std::fabs(value) == 5 ? std::copysign(6.0F, value) : value);
        }
    }
}

}  // namespace
}  // namespace aerogel
