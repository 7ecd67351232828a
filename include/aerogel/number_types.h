// The small number types of quantized models, as plain bit patterns with explicit conversions.
// All conversions from float round to nearest, ties to even. See docs/number_types.md.
// layer: base
#pragma once

#include <bit>
#include <cstdint>

namespace aerogel {

/// bfloat16: 1 sign, 8 exponent, 7 mantissa bits.
struct BFloat16 {
    std::uint16_t bits = 0;
};
/// IEEE half precision.
struct Float16 {
    std::uint16_t bits = 0;
};
/// OCP FP8 E4M3 ("fn": no infinity, NaN = 0x7f / 0xff, largest 448).
struct Float8E4M3 {
    std::uint8_t bits = 0;
};
/// OCP FP8 E5M2 (IEEE-like: infinities and NaNs, largest finite 57344).
struct Float8E5M2 {
    std::uint8_t bits = 0;
};
/// OCP MX scale: 2^(bits - 127), 255 is NaN.
struct Float8E8M0 {
    std::uint8_t bits = 0;
};
/// OCP FP4 E2M1 in the low nibble: {0, .5, 1, 1.5, 2, 3, 4, 6} and their negatives.
struct Float4E2M1 {
    std::uint8_t bits = 0;
};
/// Two's-complement 4-bit integer in the low nibble: -8 .. 7.
struct Int4 {
    std::uint8_t bits = 0;
};

inline float to_float(BFloat16 x) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
float to_float(Float16 x);
float to_float(Float8E4M3 x);
float to_float(Float8E5M2 x);
float to_float(Float8E8M0 x);
float to_float(Float4E2M1 x);
inline int to_int(Int4 x) {
    return static_cast<int>((x.bits & 0xF) ^ 8) - 8;
}

/// NaN stays NaN (quiet), overflow goes to infinity.
BFloat16 to_bfloat16(float x);
/// NaN stays NaN (quiet), overflow goes to infinity.
Float16 to_float16(float x);
/// NaN stays NaN. Overflow goes to NaN as in ml_dtypes, or to +-448 when `saturate`.
Float8E4M3 to_float8_e4m3(float x, bool saturate = false);
/// NaN stays NaN. Overflow goes to infinity, or to +-57344 when `saturate`.
Float8E5M2 to_float8_e5m2(float x, bool saturate = false);
/// Overflow goes to +-6. FP4 has no NaN: one becomes the negative zero, code 8.
Float4E2M1 to_float4_e2m1(float x);
/// Clamps to -8 .. 7; NaN becomes 0.
Int4 to_int4(float x);

}  // namespace aerogel
