// One pass of a rotation (kernels/hadamard.h): of numbers in a lane, or of one number in each lane of a warp.
// ConvRot's four (a+b) + (c-d), (a+b) - (c-d), (a-b) + (c+d), (c+d) - (a-b) are sums and differences of two,
// then of those crosswise.
#pragma once

#include "kernels/cuda/primitives/gpu.h"

namespace aerogel::cuda {

__device__ __forceinline__ void hadamard_two(float& a, float& b) {
    const float sum = a + b;
    b = a - b;
    a = sum;
}

__device__ __forceinline__ void convrot_four(float& a, float& b, float& c, float& d) {
    const float sum = a + b, difference = a - b, other_sum = c + d, other_difference = c - d;
    a = sum + other_difference;
    b = sum - other_difference;
    c = difference + other_sum;
    d = other_sum - difference;
}

/// Between lanes that differ in one bit.
__device__ __forceinline__ void hadamard_lanes(float& value, int distance) {
    const float other = gpu::shfl_xor(value, distance);
    value = (gpu::lane_id() & distance) != 0 ? other - value : value + other;
}

/// Between lanes that differ in a digit of two bits, the lower one of which is `distance`.
__device__ __forceinline__ void convrot_lanes(float& value, int distance) {
    const int lane = gpu::lane_id(), digit = lane / distance % 4, zero = lane - digit * distance;
    const int left = digit < 2 ? 0 : digit - 1;
    hadamard_lanes(value, distance);
    const float a = gpu::shfl(value, zero + left * distance),
                b = gpu::shfl(value, zero + (3 - left) * distance);
    value = (digit & 1) != 0 ? a - b : a + b;
}

}  // namespace aerogel::cuda
