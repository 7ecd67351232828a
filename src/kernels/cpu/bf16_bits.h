// bfloat16 in memory, as the kernels of one CPU level see it: number_types.h defines functions, which such
// files must not emit.
#pragma once

#include <cstdint>

namespace aerogel {
namespace {

struct Bf16Bits {
    std::uint16_t bits;
};

inline float float_of(float x) {
    return x;
}
inline float float_of(Bf16Bits x) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16);
}

inline void put_float(float* to, float x) {
    *to = x;
}
/// To the nearest, ties to even.
inline void put_float(Bf16Bits* to, float x) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
    to->bits = static_cast<std::uint16_t>((x == x ? rounded : bits | 0x400000) >> 16);
}

}  // namespace
}  // namespace aerogel
