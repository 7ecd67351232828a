// 8-bit floats: bytes by hand, every code, and what is refused.
#include "formats/fp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "formats/format_cases.h"

namespace aerogel {
namespace {

using testing::bytes_of;
using testing::floats;
using testing::floats_of;
using testing::message_of;

using Ints = std::vector<int>;
using Floats = std::vector<float>;

// All 256 codes in a row, with the scale 2.
Floats all_codes(Format format, DType dtype) {
    QuantizedTensor weight;
    weight.format = format;
    weight.rows = 1;
    weight.columns = 256;
    weight.data = Tensor(dtype, {1, 256});
    for (int i = 0; i < 256; ++i) {
        static_cast<std::uint8_t*>(weight.data.mutable_data())[i] = static_cast<std::uint8_t>(i);
    }
    weight.scale = floats({1, 1}, {2});
    return floats_of(dequantize(weight), 256);
}

float value_of(int code, int mantissa_bits, int bias) {
    const int steps = 1 << mantissa_bits;
    const int exponent = code % 128 / steps;
    const int mantissa = code % steps + (exponent == 0 ? 0 : steps);
    const float magnitude =
        std::ldexp(static_cast<float>(mantissa), std::max(exponent, 1) - bias - mantissa_bits);
    return code < 128 ? magnitude : -magnitude;
}

TEST(Fp8, DecodesEveryCode) {
    const Floats e4m3 = all_codes(Format::fp8_e4m3, DType::f8_e4m3);
    const Floats e5m2 = all_codes(Format::fp8_e5m2, DType::f8_e5m2);
    for (int i = 0; i < 256; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (i % 128 == 127) {
            EXPECT_TRUE(std::isnan(e4m3[at])) << i;
        } else {
            EXPECT_EQ(e4m3[at], 2 * value_of(i, 3, 7)) << i;
        }
        if (i % 128 > 124) {
            EXPECT_TRUE(std::isnan(e5m2[at])) << i;
        } else if (i % 128 == 124) {
            EXPECT_EQ(e5m2[at], i < 128 ? INFINITY : -INFINITY);
        } else {
            EXPECT_EQ(e5m2[at], 2 * value_of(i, 2, 15)) << i;
        }
    }
}

TEST(Fp8, EncodesToNearestEvenAndSaturates) {
    const Tensor one = floats({1, 1}, {1});
    const QuantizedTensor narrow = encode_fp8_e4m3(
        floats({1, 11}, {448, 1, -1, 1.0625F, 1.1875F, 0x1p-9F, 0x1p-10F, 464, -1e30F, 0, -0.0F}), one);
    EXPECT_EQ(bytes_of(narrow.data, 11),
              (Ints{0x7E, 0x38, 0xB8, 0x38, 0x3A, 0x01, 0x00, 0x7E, 0xFE, 0x00, 0x80}));
    const QuantizedTensor wide =
        encode_fp8_e5m2(floats({1, 8}, {57344, 1, 1.125F, 1.375F, 0x1p-16F, 0x1p-17F, 1e9F, -2}), one);
    EXPECT_EQ(bytes_of(wide.data, 8), (Ints{0x7B, 0x3C, 0x3C, 0x3E, 0x01, 0x00, 0x7B, 0xC0}));
}

TEST(Fp8, MinmaxMakesTheLargestTheLargestCode) {
    const Tensor weight = floats({2, 4}, {-896, 448, 3.5F, -1.75F, 0, 0, 1e-40F, -1e-45F});
    const QuantizedTensor rows = encode_fp8_e4m3(weight, 0);
    const float smallest = std::numeric_limits<float>::min();
    EXPECT_EQ(floats_of(rows.scale, 2), (Floats{2, smallest}));
    EXPECT_EQ(bytes_of(rows.data, 4), (Ints{0xFE, 0x76, 0x3E, 0xB6}));
    const QuantizedTensor groups = encode_fp8_e4m3(weight, 2);
    EXPECT_EQ(groups.group_size, 2);
    EXPECT_EQ(floats_of(groups.scale, 4), (Floats{2, 0x1p-7F, smallest, smallest}));
    EXPECT_EQ(bytes_of(groups.data, 6), (Ints{0xFE, 0x76, 0x7E, 0xF6, 0, 0}));
    EXPECT_EQ(floats_of(dequantize(groups), 4), (Floats{-896, 448, 3.5F, -1.75F}));
    const QuantizedTensor wide = encode_fp8_e5m2(floats({1, 2}, {114688, -2}), 0);
    EXPECT_EQ(floats_of(wide.scale, 1), (Floats{2}));
    EXPECT_EQ(bytes_of(wide.data, 2), (Ints{0x7B, 0xBC}));
}

TEST(Fp8, ProblemsNameBothSides) {
    QuantizedTensor weight = encode_fp8_e5m2(floats({1, 2}, {1, 2}), 0);
    const auto problem = format_row(Format::fp8_e5m2).problem;
    EXPECT_EQ(problem(weight), "");
    weight.offset = floats({1, 1}, {0});
    EXPECT_EQ(problem(weight), "8-bit floats have no offset");
    weight.offset = Tensor();
    weight.scale = floats({2, 1}, {1, 1});
    EXPECT_EQ(problem(weight), "scale must be f32[1,1], got f32[2,1]");
    weight.format = Format::fp8_e4m3;
    EXPECT_EQ(format_row(Format::fp8_e4m3).problem(weight), "data must be f8_e4m3[1,2], got f8_e5m2[1,2]");
    EXPECT_EQ(message_of([] {
                  encode_fp8_e4m3(floats({1, 1}, {INFINITY}), floats({1, 1}, {1}));
              }),
              "[fp8_e4m3] the weight f32[1,1] is not finite at element 0");
    EXPECT_EQ(message_of([] {
                  encode_fp8_e5m2(floats({1, 1}, {1}), floats({1, 1}, {0}));
              }),
              "[fp8_e5m2] scales must be positive, got 0.000000 at element 0");
}

}  // namespace
}  // namespace aerogel
