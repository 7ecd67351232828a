// Sums in a fixed order that vectorises.
#pragma once

#include <cstdint>

namespace aerogel {

/// Sum of term(0) .. term(count - 1), `count` a multiple of 16, in 16 lanes, so that its order is fixed.
template <typename Term>
float lane_sum(std::int64_t count, const Term& term) {
    constexpr std::int64_t kLanes = 16;
    float lanes[kLanes] = {};
    for (std::int64_t i = 0; i < count; i += kLanes) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    }
    float sum = 0.0F;
    for (const float lane : lanes) sum += lane;
    return sum;
}

}  // namespace aerogel
