// The number formats: decoding by hand, encoding with rounding and clamping, and what each row refuses.
#include "formats/int8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "formats/format_cases.h"

namespace aerogel {
namespace {

using testing::floats;
using testing::message_of;

TEST(Formats, EveryFormatHasItsRow) {
    EXPECT_EQ(formats().size(), 9U);
    for (std::size_t i = 0; i < formats().size(); ++i) {
        const auto format = static_cast<Format>(i);
        EXPECT_EQ(formats()[i].format, format);
        EXPECT_EQ(format_row(format).name, to_string(format));
    }
    EXPECT_THROW(format_row(static_cast<Format>(200)), InvalidArgument);
}

TEST(Formats, FloatRowsDecodeToThemselves) {
    QuantizedTensor weight;
    weight.rows = 2;
    weight.columns = 3;
    weight.data = floats({2, 3}, {1, -2, 3.140625F, 0, 5e-3F, 1e9F});
    EXPECT_EQ(format_row(Format::f32).problem(weight), "");
    const Tensor same = dequantize(weight);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(same.as<float>()[i], weight.data.as<float>()[i]);
    weight.format = Format::bf16;
    EXPECT_EQ(format_row(Format::bf16).problem(weight), "data must be bf16[2,3], got f32[2,3]");
    weight.data = weight.data.to(DType::bf16);
    const Tensor half = dequantize(weight);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(half.as<float>()[i], to_float(weight.data.as<BFloat16>()[i]));
    weight.scale = floats({2, 1}, {1, 1});
    EXPECT_NE(format_row(Format::bf16).problem(weight), "");
}

TEST(Int8, DecodesGroupsAndOffsets) {
    QuantizedTensor weight;
    weight.format = Format::int8;
    weight.rows = 1;
    weight.columns = 4;
    weight.group_size = 2;
    weight.data = Tensor(DType::i8, {1, 4});
    const std::int8_t values[4] = {-128, 127, 5, -1};
    std::copy(values, values + 4, weight.data.mutable_as<std::int8_t>());
    weight.scale = floats({1, 2}, {0.5F, 2});
    const Tensor plain = dequantize(weight);
    const float wanted[4] = {-64, 63.5F, 10, -2};
    for (int i = 0; i < 4; ++i) EXPECT_EQ(plain.as<float>()[i], wanted[i]);
    weight.offset = floats({1, 2}, {-128, 3});
    const Tensor shifted = dequantize(weight);
    const float wanted_shifted[4] = {0, 127.5F, 4, -8};
    for (int i = 0; i < 4; ++i) EXPECT_EQ(shifted.as<float>()[i], wanted_shifted[i]);
}

TEST(Int8, EncodesToNearestEvenAndClamps) {
    const Tensor weight = floats({1, 8}, {0.5F, 1.5F, 2.5F, -0.5F, -1.5F, 127.4F, 1000, -1000});
    const QuantizedTensor q = encode_int8(weight, floats({1, 1}, {1}), Tensor());
    const std::int8_t wanted[8] = {0, 2, 2, 0, -2, 127, 127, -128};
    for (int i = 0; i < 8; ++i) EXPECT_EQ(q.data.as<std::int8_t>()[i], wanted[i]) << i;
    const QuantizedTensor narrow = encode_int8(weight, floats({1, 1}, {1}), Tensor(), -127);
    EXPECT_EQ(narrow.data.as<std::int8_t>()[7], -127);
}

TEST(Int8, EncodesGroupsWithOffsets) {
    const Tensor weight = floats({2, 4}, {1, 2, 10, 20, -1, -2, -10, -20});
    const QuantizedTensor q =
        encode_int8(weight, floats({2, 2}, {0.5F, 2, 1, 4}), floats({2, 2}, {0, -3, 7, 1}));
    EXPECT_EQ(q.group_size, 2);
    const std::int8_t wanted[8] = {2, 4, 2, 7, 6, 5, -2, -4};  // -10/4 + 1 = -1.5 -> -2
    for (int i = 0; i < 8; ++i) EXPECT_EQ(q.data.as<std::int8_t>()[i], wanted[i]) << i;
    EXPECT_EQ(format_row(Format::int8).problem(q), "");
}

TEST(Int8, RoundTripStaysWithinHalfAStep) {
    Tensor weight(DType::f32, {3, 257});
    for (std::int64_t i = 0; i < weight.count(); ++i)
        weight.mutable_as<float>()[i] = std::sin(static_cast<float>(i)) * 3.0F;
    const QuantizedTensor q =
        encode_int8(weight, floats({3, 1}, {3 / 127.0F, 3 / 127.0F, 3 / 127.0F}), Tensor());
    const Tensor back = dequantize(q);
    for (std::int64_t i = 0; i < weight.count(); ++i) {
        const float step = 3 / 127.0F;
        EXPECT_LE(std::abs(back.as<float>()[i] - weight.as<float>()[i]), step / 2 * (1 + 1e-5F));
    }
}

TEST(Int8, ProblemsNameBothSides) {
    const auto problem = format_row(Format::int8).problem;
    QuantizedTensor weight;
    weight.format = Format::int8;
    weight.rows = 8;
    weight.columns = 6;
    EXPECT_EQ(problem(weight), "data must be i8[8,6], got nothing");
    weight.data = Tensor::zeros(DType::i8, {8, 6});
    EXPECT_EQ(problem(weight), "scale must be f32[8,1], got nothing");
    weight.scale = Tensor::zeros(DType::f32, {4, 1});
    EXPECT_EQ(problem(weight), "scale must be f32[8,1], got f32[4,1]");
    weight.scale = Tensor::zeros(DType::f32, {8, 1});
    EXPECT_EQ(problem(weight), "");
    weight.offset = Tensor::zeros(DType::i8, {8, 1});
    EXPECT_EQ(problem(weight), "offset must be f32[8,1], got i8[8,1]");
    weight.group_size = 4;
    EXPECT_EQ(problem(weight), "group_size must divide the 6 columns, got 4");
    weight.group_size = -2;
    EXPECT_EQ(problem(weight), "group_size must divide the 6 columns, got -2");
    EXPECT_EQ(message_of([&] { dequantize(weight); }),
              "[dequantize] int8: group_size must divide the 6 columns, got -2");
}

TEST(Int8, EncodingRefusesWhatHasNoCode) {
    const Tensor scale = floats({1, 1}, {1});
    const float nan = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(message_of([&] {
                  encode_int8(floats({1, 2}, {1, nan}), scale, Tensor());
              }),
              "[int8] the weight f32[1,2] is not finite at element 1");
    EXPECT_EQ(message_of([&] {
                  encode_int8(floats({1, 2}, {1, 2}), floats({1, 1}, {0}), Tensor());
              }),
              "[int8] scales must be positive, got 0.000000 at element 0");
    EXPECT_EQ(message_of([&] {
                  encode_int8(floats({1, 2}, {1, 2}), scale, Tensor(), -129);
              }),
              "[int8] low must be in [-128, 127], got -129");
    EXPECT_EQ(message_of([&] {
                  encode_int8(floats({2}, {1, 2}), scale, Tensor());
              }),
              "[int8] the weight must be a contiguous f32 matrix, got f32[2]");
    EXPECT_EQ(message_of([&] {
                  encode_int8(floats({1, 2}, {1, 2}), floats({2, 1}, {1, 1}), Tensor());
              }),
              "[int8] scale must be f32[1,1], got f32[2,1] (weight f32[1,2])");
}

}  // namespace
}  // namespace aerogel
