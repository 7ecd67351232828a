// Small float formats, bit for bit as the instructions of a GPU convert them.
#pragma once

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
    constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};
constexpr SmallFloat kF16{5, 10, false}, kE4M3{4, 3, true}, kE5M2{5, 2, false}, kE2M1{2, 1, true};

constexpr float decode(SmallFloat f, std::uint32_t bits) {
    const std::uint32_t magnitude = bits & ((1U << (f.exponent_bits + f.mantissa_bits)) - 1);
    const std::uint32_t top = ((1U << f.exponent_bits) - 1) << f.mantissa_bits;
    // The same bits as a float32, denormal or not, are too small by the difference of the biases.
    const float scale = std::bit_cast<float>(static_cast<std::uint32_t>(254 - f.bias()) << 23);
    float x = std::bit_cast<float>(magnitude << (23 - f.mantissa_bits)) * scale;
    if (!f.finite && magnitude == top) x = std::numeric_limits<float>::infinity();
    const bool last = f.exponent_bits == 4 && magnitude == 0x7F;
    if (f.finite ? last : magnitude > top) x = std::numeric_limits<float>::quiet_NaN();
    return (bits >> (f.exponent_bits + f.mantissa_bits) & 1) != 0 ? -x : x;
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
    const auto least_normal = std::bit_cast<float>(static_cast<std::uint32_t>(128 - f.bias()) << 23);
    std::uint32_t bits;
    if (a < least_normal) {
        const auto step =
            std::bit_cast<float>(static_cast<std::uint32_t>(126 + f.bias() + f.mantissa_bits) << 23);
        bits = static_cast<std::uint32_t>(std::nearbyint(a * step));
    } else {
        const int shift = 23 - f.mantissa_bits;
        const auto u = std::bit_cast<std::uint32_t>(a);
        bits = ((u + (1U << (shift - 1)) - 1 + (u >> shift & 1)) >> shift) -
               (static_cast<std::uint32_t>(127 - f.bias()) << f.mantissa_bits);
    }
    if (bits > largest) return sign | (saturates ? largest : top);
    return sign | bits;
}

}  // namespace aerogel::emulator
