// Number types: every code survives the way to float and back, and the cases a reader of the contract
// would try by hand. The exhaustive comparison with another implementation is test_number_types.py.
#include "aerogel/number_types.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aerogel {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every code that is not a NaN comes back as itself.
template <typename Code, typename Encode>
void round_trip(int codes, Encode encode) {
    int compared = 0;
    for (int bits = 0; bits < codes; ++bits) {
        const Code code{static_cast<decltype(Code::bits)>(bits)};
        const float value = to_float(code);
        if (std::isnan(value)) {
            EXPECT_TRUE(std::isnan(to_float(encode(value)))) << bits;
            continue;
        }
        ASSERT_EQ(encode(value).bits, code.bits) << value;
        ++compared;
    }
    EXPECT_GT(compared, codes * 9 / 10);
}

TEST(NumberTypes, EveryCodeComesBack) {
    round_trip<BFloat16>(65536, to_bfloat16);
    round_trip<Float16>(65536, to_float16);
    round_trip<Float8E4M3>(256, [](float x) { return to_float8_e4m3(x); });
    round_trip<Float8E5M2>(256, [](float x) { return to_float8_e5m2(x); });
}

TEST(NumberTypes, Fp4HoldsItsSixteenValues) {
    const float values[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
    for (std::uint8_t code = 0; code < 8; ++code) {
        EXPECT_EQ(to_float(Float4E2M1{code}), values[code]);
        EXPECT_EQ(to_float(Float4E2M1{static_cast<std::uint8_t>(code | 8)}), -values[code]);
        EXPECT_EQ(to_float4_e2m1(values[code]).bits, code);
    }
    EXPECT_TRUE(std::signbit(to_float(Float4E2M1{8})));
}

TEST(NumberTypes, TiesGoToEven) {
    EXPECT_EQ(to_float(to_bfloat16(1.00390625F)), 1.0F);       // 1 + 2^-8
    EXPECT_EQ(to_float(to_bfloat16(1.01171875F)), 1.015625F);  // 1 + 3 * 2^-8
    EXPECT_EQ(to_float(to_float16(2049.0F)), 2048.0F);
    EXPECT_EQ(to_float(to_float16(2051.0F)), 2052.0F);
    EXPECT_EQ(to_float(to_float4_e2m1(2.5F)), 2.0F);
    EXPECT_EQ(to_float(to_float4_e2m1(3.5F)), 4.0F);
    EXPECT_EQ(to_float(to_float4_e2m1(0.25F)), 0.0F);
    EXPECT_EQ(to_float(to_float4_e2m1(0.75F)), 1.0F);
    EXPECT_EQ(to_int(to_int4(2.5F)), 2);
    EXPECT_EQ(to_int(to_int4(-2.5F)), -2);
    EXPECT_EQ(to_int(to_int4(3.5F)), 4);
}

TEST(NumberTypes, Overflow) {
    EXPECT_EQ(to_float(to_bfloat16(3.4e38F)), kInf);
    EXPECT_EQ(to_float(to_float16(65520.0F)), kInf);
    EXPECT_EQ(to_float(to_float16(65519.0F)), 65504.0F);
    EXPECT_EQ(to_float(to_float8_e4m3(464.0F)), 448.0F);  // a tie, 448 is even
    EXPECT_TRUE(std::isnan(to_float(to_float8_e4m3(464.1F))));
    EXPECT_EQ(to_float(to_float8_e4m3(-1e9F, true)), -448.0F);
    EXPECT_EQ(to_float(to_float8_e4m3(kInf, true)), 448.0F);
    EXPECT_EQ(to_float(to_float8_e5m2(1e9F)), kInf);
    EXPECT_EQ(to_float(to_float8_e5m2(1e9F, true)), 57344.0F);
    EXPECT_EQ(to_float(to_float4_e2m1(-kInf)), -6.0F);
    EXPECT_EQ(to_int(to_int4(100.0F)), 7);
    EXPECT_EQ(to_int(to_int4(-100.0F)), -8);
}

TEST(NumberTypes, NansStayNans) {
    EXPECT_TRUE(std::isnan(to_float(to_bfloat16(kNan))));
    EXPECT_TRUE(
        std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7F800001U)))));  // cut off, it would be inf
    EXPECT_TRUE(std::isnan(to_float(to_float16(std::bit_cast<float>(0x7F800001U)))));
    EXPECT_TRUE(std::isnan(to_float(to_float8_e4m3(kNan, true))));
    EXPECT_TRUE(std::isnan(to_float(to_float8_e5m2(-kNan, true))));
    EXPECT_EQ(to_float4_e2m1(kNan).bits, 8);
    EXPECT_EQ(to_int(to_int4(kNan)), 0);
}

TEST(NumberTypes, MxScalesArePowersOfTwo) {
    for (int bits = 0; bits < 255; ++bits) {
        EXPECT_EQ(to_float(Float8E8M0{static_cast<std::uint8_t>(bits)}), std::ldexp(1.0F, bits - 127))
            << bits;
    }
    EXPECT_TRUE(std::isnan(to_float(Float8E8M0{255})));
}

TEST(NumberTypes, Int4IsTwosComplement) {
    for (int value = -8; value < 8; ++value) {
        EXPECT_EQ(to_int(Int4{static_cast<std::uint8_t>(value & 0xF)}), value);
        EXPECT_EQ(to_int(Int4{static_cast<std::uint8_t>((value & 0xF) | 0xA0)}), value)
            << "high nibble ignored";
        EXPECT_EQ(to_int4(static_cast<float>(value)).bits, value & 0xF);
    }
}

}  // namespace
}  // namespace aerogel
