// Small float formats, bit for bit as the instructions of a GPU convert them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace aerogel::emulator {

inline float float_of_bf16(std::uint32_t bits) {
    return std::bit_cast<float>(bits << 16);
}

inline std::uint32_t bf16_of_float(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    if (x != x) return 0x7FFF;  // the NaN that cvt gives
    return (u + 0x7FFFU + (u >> 16 & 1U)) >> 16;
}

/// A float of few bits: sign, exponent, mantissa. No infinity when finite: only the last pattern is NaN.
struct SmallFloat {
    int exponent_bits, mantissa_bits;
    bool finite;
    int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};
constexpr SmallFloat kF16{5, 10, false}, kE4M3{4, 3, true}, kE5M2{5, 2, false}, kE2M1{2, 1, true};

inline float decode(SmallFloat f, std::uint32_t bits) {
    const std::uint32_t mantissa = bits & ((1U << f.mantissa_bits) - 1);
    const int exponent = static_cast<int>(bits >> f.mantissa_bits & ((1U << f.exponent_bits) - 1));
    const int top = (1 << f.exponent_bits) - 1;
    const bool negative = (bits >> (f.exponent_bits + f.mantissa_bits) & 1) != 0;
    float x;
    if (exponent == top && !f.finite) {
        x = mantissa == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    } else if (exponent == top && f.exponent_bits == 4 && mantissa == 7) {
        x = std::numeric_limits<float>::quiet_NaN();
    } else if (exponent == 0) {
        x = std::ldexp(static_cast<float>(mantissa), 1 - f.bias() - f.mantissa_bits);
    } else {
        x = std::ldexp(static_cast<float>(mantissa | 1U << f.mantissa_bits),
                       exponent - f.bias() - f.mantissa_bits);
    }
    return negative ? -x : x;
}

/// To nearest, ties to even. Saturating formats (fp8 and smaller, .satfinite) give their largest number
/// instead of infinity; f16 gives infinity.
inline std::uint32_t encode(SmallFloat f, float x) {
    const std::uint32_t sign = std::bit_cast<std::uint32_t>(x) >> 31 << (f.exponent_bits + f.mantissa_bits);
    const bool saturates = f.exponent_bits + f.mantissa_bits < 15;
    const std::uint32_t top = ((1U << f.exponent_bits) - 1) << f.mantissa_bits;
    if (x != x) {
        if (!saturates) return 0x7FFF;
        return f.finite && f.exponent_bits == 2 ? 7U : (1U << (f.exponent_bits + f.mantissa_bits)) - 1;
    }
    const float a = std::fabs(x);
    std::uint32_t largest = top - 1;  // before infinity
    if (f.finite) largest = f.exponent_bits == 4 ? 0x7EU : top | ((1U << f.mantissa_bits) - 1);
    if (std::isinf(a)) return sign | (saturates ? largest : top);
    if (a == 0) return sign;
    const int exponent = std::max(std::ilogb(a), 1 - f.bias());
    const float steps =
        std::nearbyint(std::ldexp(a, f.mantissa_bits - exponent));  // exact but for the rounding
    const auto bits =
        static_cast<std::uint32_t>((static_cast<std::int64_t>(exponent + f.bias() - 1) << f.mantissa_bits) +
                                   static_cast<std::int64_t>(steps));
    if (bits > largest) return sign | (saturates ? largest : top);
    return sign | bits;
}

}  // namespace aerogel::emulator
