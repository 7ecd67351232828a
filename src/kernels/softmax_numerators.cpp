// Everything in lanes of a fixed number.
#include "kernels/softmax_numerators.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

namespace aerogel {
namespace {

// e^x for x in [-87, -0] to about 1e-6 relative; everything else, +0 and NaN included, counts as -87.
// Clamped by its bits (those of negative numbers grow with their size), because a comparison of floats
// would keep the compiler from vectorising.
inline float exp_negative(float x) {
    const float clamped =
        std::bit_cast<float>(std::min(std::bit_cast<std::int32_t>(x), std::bit_cast<std::int32_t>(-87.0F)));
    const float shifted = clamped * 1.44269504F + 12582912.0F;  // 1.5 * 2^23: rounds to an integer
    const float power = shifted - 12582912.0F;
    const float rest = clamped - power * 0.693359375F + power * 2.12194440e-4F;
    float series = 1.3888889e-3F;
    series = series * rest + 8.3333333e-3F;
    series = series * rest + 4.1666667e-2F;
    series = series * rest + 1.6666667e-1F;
    series = series * rest + 0.5F;
    series = series * rest + 1.0F;
    series = series * rest + 1.0F;
    const auto exponent = (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(12582912.0F))
                          << 23;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(series) + exponent);
}

// The largest value, NaNs aside.
float largest(const float* values, std::size_t count) {
    float lanes[8];
    std::fill_n(lanes, 8, -std::numeric_limits<float>::infinity());
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
    for (; i < count; ++i) lanes[0] = std::max(lanes[0], values[i]);
    return *std::max_element(lanes, lanes + 8);
}

}  // namespace

void softmax_numerators(float* x, std::size_t count, float scale) {
    const float highest = largest(x, count);
    for (std::size_t i = 0; i < count; ++i) x[i] = exp_negative((highest - x[i]) * -scale);
}

bool all_finite(const float* x, std::size_t count) {
    float lanes[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += x[i + lane] * 0.0F;
    }
    for (; i < count; ++i) lanes[0] += x[i] * 0.0F;
    return std::all_of(lanes, lanes + 8, [](float zero) { return zero == 0.0F; });
}

}  // namespace aerogel
