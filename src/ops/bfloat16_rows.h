// bfloat16 for operations whose kernels compute in float32: few numbers at a time, which stay in the first
// cache between the steps.
#pragma once

#include <bit>
#include <cstdint>

#include "aerogel/number_types.h"

namespace aerogel {

inline void widen(const BFloat16* x, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
}

/// Rounded as to_bfloat16() does, but without a call, so that the compiler makes vectors of it.
inline void narrow(const float* x, std::int64_t count, BFloat16* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        const auto bits = std::bit_cast<std::uint32_t>(x[i]);
        const std::uint32_t rounded = (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16;
        const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
        out[i].bits = static_cast<std::uint16_t>(nan ? (bits >> 16 & 0x8000U) | 0x7FC0U : rounded);
    }
}

}  // namespace aerogel
