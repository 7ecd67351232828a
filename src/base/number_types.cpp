// Conversions between float and the small number types, by integer arithmetic on the bit patterns:
// the results are the same on every machine and in every rounding mode of the processor.
#include "aerogel/number_types.h"

#include <algorithm>
#include <cmath>

namespace aerogel {
namespace {

constexpr std::uint32_t kSign = 0x80000000U;
constexpr std::uint32_t kInfinity = 0x7F800000U;
constexpr int kFloatMantissa = 23;
constexpr int kFloatBias = 127;

struct Parts {
    bool negative;
    std::uint32_t magnitude;
    bool nan() const { return magnitude > kInfinity; }
};

Parts split(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return {(bits & kSign) != 0, bits & ~kSign};
}

// value >> shift, to nearest, ties to even; 1 <= shift <= 31.
constexpr std::uint32_t shift_rounding(std::uint32_t value, int shift) {
    const std::uint32_t odd = (value >> shift) & 1U;
    return (value + ((1U << (shift - 1)) - 1U) + odd) >> shift;
}

// Magnitude bits of a finite float -> code in a format with that mantissa and bias, as if its exponent
// had no upper end: the caller compares the code with the largest finite one.
template <int kMantissa, int kBias>
std::uint32_t encode(std::uint32_t magnitude) {
    constexpr int kShift = kFloatMantissa - kMantissa;
    const int exponent = static_cast<int>(magnitude >> kFloatMantissa) - kFloatBias;
    if (exponent >= 1 - kBias) {
        constexpr auto kRebias = static_cast<std::uint32_t>(kFloatBias - kBias) << kFloatMantissa;
        return shift_rounding(magnitude - kRebias, kShift);
    }
    const int shift = kShift + (1 - kBias) - exponent;
    if (shift > kFloatMantissa + 1) return 0;  // below half of the smallest subnormal
    const std::uint32_t significand = (magnitude & 0x7FFFFFU) | 0x800000U;
    return shift_rounding(significand, shift);
}

// Code without sign -> float; the format's infinities and NaNs are left to the caller.
template <int kMantissa, int kBias>
float decode(std::uint32_t code, bool negative) {
    const std::uint32_t exponent = code >> kMantissa;
    float magnitude = 0;
    if (exponent == 0) {
        constexpr auto kSmallest = static_cast<std::uint32_t>(1 - kBias - kMantissa + kFloatBias);
        magnitude = static_cast<float>(code) * std::bit_cast<float>(kSmallest << kFloatMantissa);
    } else {
        constexpr auto kRebias = static_cast<std::uint32_t>(kFloatBias - kBias) << kFloatMantissa;
        magnitude = std::bit_cast<float>((code << (kFloatMantissa - kMantissa)) + kRebias);
    }
    return negative ? -magnitude : magnitude;
}

float special(std::uint32_t bits, bool negative) {
    return std::bit_cast<float>(bits | (negative ? kSign : 0U));
}

constexpr std::uint32_t kQuietNan = 0x7FC00000U;

std::uint8_t with_sign(std::uint32_t code, bool negative) {
    return static_cast<std::uint8_t>(code | (negative ? 0x80U : 0U));
}

}  // namespace

float to_float(Float16 x) {
    const std::uint32_t code = x.bits & 0x7FFFU;
    const bool negative = (x.bits & 0x8000U) != 0;
    if (code >= 0x7C00U) {
        const std::uint32_t payload = (code & 0x3FFU) << 13;
        return special(kInfinity | payload | (payload != 0 ? 0x400000U : 0U), negative);
    }
    return decode<10, 15>(code, negative);
}

float to_float(Float8E4M3 x) {
    const std::uint32_t code = x.bits & 0x7FU;
    const bool negative = (x.bits & 0x80U) != 0;
    return code == 0x7FU ? special(kQuietNan, negative) : decode<3, 7>(code, negative);
}

float to_float(Float8E5M2 x) {
    const std::uint32_t code = x.bits & 0x7FU;
    const bool negative = (x.bits & 0x80U) != 0;
    if (code >= 0x7CU) return special(code == 0x7CU ? kInfinity : kQuietNan, negative);
    return decode<2, 15>(code, negative);
}

float to_float(Float8E8M0 x) {
    if (x.bits == 0xFF) return std::bit_cast<float>(kQuietNan);
    if (x.bits == 0) return std::bit_cast<float>(0x00400000U);  // 2^-127, a subnormal float
    return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << kFloatMantissa);
}

float to_float(Float4E2M1 x) {
    return decode<1, 1>(x.bits & 7U, (x.bits & 8U) != 0);
}

BFloat16 to_bfloat16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if ((bits & ~kSign) > kInfinity)
        return {static_cast<std::uint16_t>((bits & kSign) != 0 ? 0xFFC0U : 0x7FC0U)};
    return {static_cast<std::uint16_t>(shift_rounding(bits, 16))};
}

Float16 to_float16(float x) {
    const Parts parts = split(x);
    const std::uint32_t sign = parts.negative ? 0x8000U : 0U;
    std::uint32_t code = 0x7C00U;
    if (parts.nan()) {
        code = 0x7E00U | ((parts.magnitude >> 13) & 0x3FFU);
    } else if (parts.magnitude != kInfinity) {
        code = std::min(encode<10, 15>(parts.magnitude), 0x7C00U);
    }
    return {static_cast<std::uint16_t>(sign | code)};
}

Float8E4M3 to_float8_e4m3(float x, bool saturate) {
    constexpr std::uint32_t kLargest = 0x7E;
    constexpr std::uint32_t kNan = 0x7F;
    const Parts parts = split(x);
    if (parts.nan()) return {with_sign(kNan, parts.negative)};
    const std::uint32_t code = encode<3, 7>(parts.magnitude);
    if (code > kLargest) return {with_sign(saturate ? kLargest : kNan, parts.negative)};
    return {with_sign(code, parts.negative)};
}

Float8E5M2 to_float8_e5m2(float x, bool saturate) {
    constexpr std::uint32_t kLargest = 0x7B;
    constexpr std::uint32_t kInfinite = 0x7C;
    constexpr std::uint32_t kNan = 0x7E;
    const Parts parts = split(x);
    if (parts.nan()) return {with_sign(kNan, parts.negative)};
    const std::uint32_t code = encode<2, 15>(parts.magnitude);
    if (code > kLargest) return {with_sign(saturate ? kLargest : kInfinite, parts.negative)};
    return {with_sign(code, parts.negative)};
}

Float4E2M1 to_float4_e2m1(float x) {
    const Parts parts = split(x);
    if (parts.nan()) return {8};
    const std::uint32_t code = std::min(encode<1, 1>(parts.magnitude), 7U);
    return {static_cast<std::uint8_t>(code | (parts.negative ? 8U : 0U))};
}

Int4 to_int4(float x) {
    if (std::isnan(x)) return {0};
    const float clamped = std::clamp(x, -8.0F, 7.0F);
    const int below = static_cast<int>(std::floor(clamped));
    const float rest = clamped - static_cast<float>(below);
    const bool up = rest > 0.5F || (rest == 0.5F && (below & 1) != 0);
    return {static_cast<std::uint8_t>((below + (up ? 1 : 0)) & 0xF)};
}

}  // namespace aerogel
