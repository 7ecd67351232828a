// Conversions to few bits: to the nearest number, ties to the even one, saturation, every pattern there and
// back.
#include "emulator/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aerogel::emulator {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Format {
    const char* name;
    SmallFloat format;
    float largest;
};
const Format kFormats[] = {
    {"f16", kF16, 65504}, {"e4m3", kE4M3, 448}, {"e5m2", kE5M2, 57344}, {"e2m1", kE2M1, 6}};

std::uint32_t sign_of(SmallFloat f) {
    return 1U << (f.exponent_bits + f.mantissa_bits);
}

TEST(EmulatorNumbers, every_pattern_comes_back) {
    for (const Format& f : kFormats) {
        std::uint32_t nans = 0;
        for (std::uint32_t bits = 0; bits < 2 * sign_of(f.format); ++bits) {
            const float x = decode(f.format, bits);
            nans += std::isnan(x);
            if (!std::isfinite(x)) continue;
            ASSERT_EQ(encode(f.format, x), bits) << f.name;
        }
        EXPECT_EQ(nans, f.format.finite ? (f.format.exponent_bits == 4 ? 2U : 0U)
                                        : 2 * ((1U << f.format.mantissa_bits) - 1));
    }
}

TEST(EmulatorNumbers, between_two_numbers_the_nearest_one_or_the_even_one) {
    for (const Format& f : kFormats) {
        for (std::uint32_t bits = 0; decode(f.format, bits) < f.largest; ++bits) {
            const float low = decode(f.format, bits), high = decode(f.format, bits + 1),
                        middle = (low + high) / 2;
            ASSERT_EQ(encode(f.format, middle), bits % 2 == 0 ? bits : bits + 1) << f.name << " " << middle;
            ASSERT_EQ(encode(f.format, std::nextafter(middle, low)), bits) << f.name << " " << middle;
            ASSERT_EQ(encode(f.format, std::nextafter(middle, high)), bits + 1) << f.name << " " << middle;
            ASSERT_EQ(encode(f.format, -middle), encode(f.format, middle) | sign_of(f.format)) << f.name;
        }
    }
}

TEST(EmulatorNumbers, beyond_the_largest) {
    for (const Format& f : kFormats) {
        const bool saturates = f.format.exponent_bits + f.format.mantissa_bits < 15;
        const float expected = saturates ? f.largest : kInfinity;
        EXPECT_EQ(decode(f.format, encode(f.format, f.largest * 2)), expected) << f.name;
        EXPECT_EQ(decode(f.format, encode(f.format, -kInfinity)), -expected) << f.name;
    }
    EXPECT_EQ(decode(kE2M1, encode(kE2M1, std::nanf(""))), 6)
        << "the conversion gives the largest number for NaN";
    EXPECT_TRUE(std::isnan(decode(kE4M3, encode(kE4M3, std::nanf("")))));
    EXPECT_TRUE(std::isnan(decode(kF16, encode(kF16, std::nanf("")))));
    EXPECT_EQ(encode(kF16, 65519.0F), 0x7BFFU);
    EXPECT_EQ(encode(kF16, 65520.0F), 0x7C00U);
}

TEST(EmulatorNumbers, bf16_is_the_upper_half_of_a_float) {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float x = float_of_bf16(bits);
        if (std::isnan(x)) {
            EXPECT_EQ(bf16_of_float(x), 0x7FFFU);
        } else {
            ASSERT_EQ(bf16_of_float(x), bits);
        }
    }
    EXPECT_EQ(bf16_of_float(std::bit_cast<float>(0x3F808000U)), 0x3F80U) << "a tie, to even";
    EXPECT_EQ(bf16_of_float(std::bit_cast<float>(0x3F818000U)), 0x3F82U);
    EXPECT_EQ(bf16_of_float(std::bit_cast<float>(0x3F808001U)), 0x3F81U);
    EXPECT_EQ(bf16_of_float(std::numeric_limits<float>::max()), 0x7F80U);
}

}  // namespace
}  // namespace aerogel::emulator
