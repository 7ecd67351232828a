// MXFP4, with and without dual scales: bytes by hand, every code and scale, both forms in files, and what is
// refused.
#include "formats/mxfp4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aerogel/number_types.h"
#include "formats/format_cases.h"
#include "formats/mxfp4_dual.h"

namespace aerogel {
namespace {

using testing::bytes_of;
using testing::floats;
using testing::floats_of;
using testing::message_of;
using testing::padded;

using Ints = std::vector<int>;
using Floats = std::vector<float>;

TEST(Mxfp4, EncodesWithTiesAwayFromZero) {
    // The largest is 6, so e = floor(log2(6.86)) - 2 = 0. Every other value but 4.9 and .2 is a tie.
    const QuantizedTensor q = encode_mxfp4(padded(
        {1, 35}, {6, 5, 4.9F, 3.5F, 2.5F, 1.75F, 1.25F, 0.75F, 0.25F, 0.2F, -0.2F, -6, -0.0F, -2.5F, -5, 0}));
    EXPECT_EQ(q.data.shape(), (Shape{1, 18}));
    EXPECT_EQ(bytes_of(q.data, 8), (Ints{0x77, 0x66, 0x45, 0x23, 0x01, 0xF8, 0xD0, 0x0F}));
    EXPECT_EQ(bytes_of(q.scale, 2), (Ints{127, 105}));
    EXPECT_EQ(bytes_of(q.data, 18)[17], 0);
}

TEST(Mxfp4, ScaleGrowsAtSevenEighthsOfAPowerOfTwo) {
    const float largest = std::numeric_limits<float>::max();
    const QuantizedTensor q = encode_mxfp4(floats({6, 1}, {7, 6.99F, 0x1p-149F, -1e-20F, largest, 0x1p100F}));
    EXPECT_EQ(bytes_of(q.scale, 6), (Ints{128, 127, 105, 105, 252, 225}));
    EXPECT_EQ(bytes_of(q.data, 6), (Ints{6, 7, 0, 8, 7, 6}));
}

TEST(Mxfp4, DecodesEveryPairOfCodesWithEveryScale) {
    const Floats values = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, 0, -0.5F, -1, -1.5F, -2, -3, -4, -6};
    QuantizedTensor weight;
    weight.format = Format::mxfp4;
    weight.rows = 255;
    weight.columns = 511;
    weight.group_size = 32;
    weight.data = Tensor(DType::u8, {255, 256});
    weight.scale = Tensor(DType::u8, {255, 16});
    for (int i = 0; i < 255 * 256; ++i) {
        weight.data.mutable_as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i % 256);
        weight.scale.mutable_as<std::uint8_t>()[i / 16] = static_cast<std::uint8_t>(i / 256);
    }
    const Tensor got = dequantize(weight);
    for (int row = 0; row < 255; ++row) {
        for (int i = 0; i < 511; ++i) {
            const auto code = static_cast<std::size_t>(i % 2 == 0 ? i / 2 % 16 : i / 2 / 16);
            EXPECT_EQ(got.as<float>()[row * 511 + i], std::ldexp(values[code], row - 127)) << row << " " << i;
        }
    }
}

TEST(Mxfp4, ReadsOneValuePerByteAndPacked) {
    Tensor plain(DType::f8_e4m3, {2, 9});
    const Floats values = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, -6, -0.0F, -0.5F, -1, -1.5F, -2, -3, -4, 0, 6};
    for (std::size_t i = 0; i < 18; ++i) plain.mutable_as<Float8E4M3>()[i] = to_float8_e4m3(values[i]);
    const Tensor packed = read_mxfp4(plain, 2, 9);
    EXPECT_EQ(packed.describe(), "u8[2,5]");
    EXPECT_EQ(bytes_of(packed, 10), (Ints{0x10, 0x32, 0x54, 0x76, 0x0F, 0x98, 0xBA, 0xDC, 0x0E, 0x07}));
    EXPECT_EQ(bytes_of(read_mxfp4(packed, 2, 9), 10), bytes_of(packed, 10));
    plain.mutable_as<Float8E4M3>()[3] = to_float8_e4m3(1.25F);
    EXPECT_EQ(
        message_of([&] { read_mxfp4(plain, 2, 9); }),
        "[mxfp4] data f8_e4m3[2,9] must hold 0, .5, 1, 1.5, 2, 3, 4, 6 or their negatives, got 1.250000 "
        "at element 3");
    plain.mutable_as<Float8E4M3>()[3] = {0x7F};
    EXPECT_NE(message_of([&] { read_mxfp4(plain, 2, 9); }), "no error");
    EXPECT_EQ(message_of([&] { read_mxfp4(plain, 9, 2); }),
              "[mxfp4] data must be f8_e4m3[9,2] or, packed, u8 or i8[9,1], got f8_e4m3[2,9]");
}

TEST(Mxfp4, ProblemsNameBothSides) {
    const auto problem = format_row(Format::mxfp4).problem;
    QuantizedTensor weight = encode_mxfp4(padded({1, 33}, {1}));
    EXPECT_EQ(problem(weight), "");
    weight.scale.mutable_as<std::uint8_t>()[1] = 255;
    EXPECT_EQ(problem(weight), "scale byte 255 (NaN) at element 1");
    weight.scale = Tensor::zeros(DType::u8, {1, 1});
    EXPECT_EQ(problem(weight), "scale must be u8[1,2], got u8[1,1]");
    weight.data = Tensor::zeros(DType::u8, {1, 33});
    EXPECT_EQ(problem(weight), "data must be u8[1,17], got u8[1,33]");
}

TEST(Mxfp4Dual, ScalesBlocksOf512Columns) {
    Tensor weight = padded({2, 514}, {12, 5, -1});
    weight.mutable_as<float>()[511] = -2;
    weight.mutable_as<float>()[514 + 513] = -0.75F;
    const QuantizedTensor q = encode_mxfp4_dual(weight);
    EXPECT_EQ(floats_of(q.dual_scale, 4), (Floats{2, 1, 1, 0.125F}));
    EXPECT_EQ(bytes_of(q.data, 2), (Ints{0x57, 0x09}));  // 6, 2.5 | -0.5
    const Ints scales = bytes_of(q.scale, 34);
    EXPECT_EQ(scales[0], 127);
    EXPECT_EQ(scales[1], 105);
    EXPECT_EQ(scales[15], 125);  // 1 * 8 / 7 gives e = -2
    EXPECT_EQ(scales[16], 105);
    EXPECT_EQ(scales[33], 127);
    const Tensor back = dequantize(q);
    EXPECT_EQ(floats_of(back, 3), (Floats{12, 6, -1}));
    EXPECT_EQ(back.as<float>()[511], -2);
    EXPECT_EQ(back.as<float>()[514 + 513], -0.75F);
}

TEST(Mxfp4Dual, GuardsBlocksOfZerosAndOfTheSmallest) {
    const QuantizedTensor q =
        encode_mxfp4_dual(floats({3, 1}, {0, 0x1p-149F, std::numeric_limits<float>::max()}));
    EXPECT_EQ(floats_of(q.dual_scale, 3), (Floats{1, 1, std::numeric_limits<float>::max() / 6}));
    EXPECT_EQ(bytes_of(q.data, 3), (Ints{0, 0, 7}));
    EXPECT_EQ(floats_of(dequantize(q), 2), (Floats{0, 0}));
}

TEST(Mxfp4Dual, ProblemsNameBothSides) {
    const auto problem = format_row(Format::mxfp4_dual).problem;
    QuantizedTensor weight = encode_mxfp4_dual(padded({1, 513}, {1}));
    EXPECT_EQ(problem(weight), "");
    weight.dual_scale = floats({1, 1}, {1});
    EXPECT_EQ(problem(weight), "dual_scale must be f32[1,2], got f32[1,1]");
    weight.dual_scale = Tensor();
    EXPECT_EQ(problem(weight), "dual_scale must be f32[1,2], got nothing");
    weight.scale.mutable_as<std::uint8_t>()[0] = 255;
    EXPECT_EQ(problem(weight), "scale byte 255 (NaN) at element 0");
}

}  // namespace
}  // namespace aerogel
