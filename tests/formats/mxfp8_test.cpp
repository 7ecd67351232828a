// MXFP8: bytes by hand, every code and scale, and what is refused.
#include "formats/mxfp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aerogel/number_types.h"
#include "formats/format_cases.h"

namespace aerogel {
namespace {

using testing::bytes_of;
using testing::floats;
using testing::floats_of;
using testing::message_of;
using testing::padded;

using Ints = std::vector<int>;

TEST(Mxfp8, EncodesWithTiesAwayFromZero) {
    // The largest is below 2, so e = -8: elements are w * 256. 272 lies between 256 and 288, 496 beyond 448.
    const QuantizedTensor q = encode_mxfp8(padded(
        {1, 35}, {1, 1.0625F, -1.0625F, 1.9375F, 0x1p-18F, -0x1p-19F, 0, -0.0F, 0x1.8p-18F, -0x1p-14F}));
    EXPECT_EQ(bytes_of(q.scale, 2), (Ints{119, 0}));
    EXPECT_EQ(bytes_of(q.data, 10), (Ints{0x78, 0x79, 0xF9, 0x7E, 0x01, 0x80, 0x00, 0x00, 0x01, 0x88}));
    EXPECT_EQ(bytes_of(q.data, 35)[34], 0);
    EXPECT_EQ(q.group_size, 32);
}

TEST(Mxfp8, EncodesTheEndsOfFloat) {
    const float largest = std::numeric_limits<float>::max();
    const QuantizedTensor q = encode_mxfp8(floats({4, 1}, {largest, -0x1p-149F, 0x1p-119F, 0x1p127F}));
    // log2 of the largest float is 128 in float32.
    EXPECT_EQ(bytes_of(q.scale, 4), (Ints{247, 0, 0, 246}));
    EXPECT_EQ(bytes_of(q.data, 4), (Ints{0x78, 0x80, 0x78, 0x78}));
}

TEST(Mxfp8, DecodesEveryCodeWithEveryScale) {
    QuantizedTensor weight;
    weight.format = Format::mxfp8;
    weight.rows = 255;
    weight.columns = 256;
    weight.group_size = 32;
    weight.data = Tensor(DType::f8_e4m3, {255, 256});
    weight.scale = Tensor(DType::u8, {255, 8});
    for (int i = 0; i < 255 * 256; ++i) {
        weight.data.mutable_as<Float8E4M3>()[i] = {static_cast<std::uint8_t>(i % 256)};
        weight.scale.mutable_as<std::uint8_t>()[i / 32] = static_cast<std::uint8_t>(i / 256);
    }
    const Tensor got = dequantize(weight);
    for (int i = 0; i < 255 * 256; ++i) {
        const int code = i % 128;
        const float sign = i % 256 < 128 ? 1.0F : -1.0F;
        const int mantissa = code % 8 + (code < 8 ? 0 : 8);
        const float wanted =
            sign * std::ldexp(static_cast<float>(mantissa), std::max(code / 8, 1) - 10 + i / 256 - 127);
        if (code == 127) {
            EXPECT_TRUE(std::isnan(got.as<float>()[i])) << i;
        } else {
            EXPECT_EQ(got.as<float>()[i], wanted) << i;
        }
    }
}

TEST(Mxfp8, ProblemsNameBothSides) {
    const auto problem = format_row(Format::mxfp8).problem;
    QuantizedTensor weight = encode_mxfp8(padded({2, 33}, {1}));
    EXPECT_EQ(problem(weight), "");
    weight.scale.mutable_as<std::uint8_t>()[3] = 255;
    EXPECT_EQ(problem(weight), "scale byte 255 (NaN) at element 3");
    EXPECT_EQ(message_of([&] { dequantize(weight); }),
              "[dequantize] mxfp8: scale byte 255 (NaN) at element 3");
    weight.dual_scale = floats({2, 1}, {1, 1});
    EXPECT_EQ(problem(weight), "only mxfp4_dual has dual scales");
    weight.offset = floats({2, 2}, {0, 0, 0, 0});
    EXPECT_EQ(problem(weight), "MX formats have no offset");
    weight.scale = floats({2, 2}, {1, 1, 1, 1});
    EXPECT_EQ(problem(weight), "scale must be u8[2,2], got f32[2,2]");
    weight.group_size = 0;
    EXPECT_EQ(problem(weight), "group_size must be 32, got 0");
    weight.columns = 32;
    EXPECT_EQ(problem(weight), "data must be f8_e4m3[2,32], got f8_e4m3[2,33]");
    EXPECT_EQ(message_of([] {
                  encode_mxfp8(floats({1, 1}, {NAN}));
              }),
              "[mxfp8] the weight f32[1,1] is not finite at element 0");
}

}  // namespace
}  // namespace aerogel
