// The rotations of kernels/hadamard.h, with the bits of the CPU: sums and differences in the same order.
#pragma once

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/rotation_steps.cuh"

namespace aerogel::cuda {

/// Column lane + 32 * j of a chunk is v[j]: passes below 32 go over the lanes, the others over the registers.
template <int kPerLane>
__device__ __forceinline__ void hadamard_chunk(float (&v)[kPerLane], std::int64_t block) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        if (distance >= block) break;
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) hadamard_lanes(v[j], distance);
    }
#pragma unroll
    for (int distance = 1; distance < kPerLane; distance *= 2) {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j)
            if ((j & distance) == 0) hadamard_two(v[j], v[j + distance]);
    }
}

/// The same by ConvRot's matrix, digit by digit to base four.
template <int kPerLane>
__device__ __forceinline__ void convrot_chunk(float (&v)[kPerLane], std::int64_t block) {
#pragma unroll
    for (int distance = 1; distance < 16; distance *= 4) {
        if (distance >= block) break;
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) convrot_lanes(v[j], distance);
    }
    const bool odd = (lane_number() & 16) != 0;  // lower bit of the digit whose upper one is that of j
#pragma unroll
    for (int j = 0; j + 1 < kPerLane; j += 2) {
        const float low = gpu::shfl_xor(v[j], 16), high = gpu::shfl_xor(v[j + 1], 16);
        const float two[2] = {odd ? low - v[j] : v[j] + low, odd ? high - v[j + 1] : v[j + 1] + high};
        const float first = gpu::shfl_xor(two[0], 16), second = gpu::shfl_xor(two[1], 16);
        v[j] = odd ? first - two[1] : two[0] + second;
        v[j + 1] = odd ? second - two[0] : first + two[1];
    }
#pragma unroll
    for (int distance = 2; distance < kPerLane; distance *= 4) {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j)
            if (j / distance % 4 == 0)
                convrot_four(v[j], v[j + distance], v[j + 2 * distance], v[j + 3 * distance]);
    }
}

/// A warp does a chunk of a row.
template <int kPerLane, bool kConvrot>
__device__ __forceinline__ void rotate(const HadamardWarpArgs& a) {
    constexpr int kChunk = 32 * kPerLane;
    const HadamardArgs& call = a.call;
    const std::int64_t chunks = (call.columns + kChunk - 1) / kChunk, row = warp_number() / chunks;
    if (row >= call.rows) return;
    const std::int64_t first = warp_number() % chunks * kChunk + lane_number();
    const float* x = call.x + row * call.x_stride;
    float* y = call.y + row * call.y_stride;
    float v[kPerLane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
        const std::int64_t column = first + 32 * j;
        v[j] = 0.0F;
        if (column >= call.columns) continue;
        v[j] = x[column] * (call.signs != nullptr ? a.factor * call.signs[column] : a.factor);
    }
    if constexpr (kConvrot) {
        convrot_chunk(v, call.block);
    } else {
        hadamard_chunk(v, call.block);
    }
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
        if (first + 32 * j < call.columns) y[first + 32 * j] = v[j];
}

template <int kPerLane>
__device__ __forceinline__ void hadamard(const HadamardWarpArgs& a) {
    rotate<kPerLane, false>(a);
}

template <int kPerLane>
__device__ __forceinline__ void convrot(const HadamardWarpArgs& a) {
    rotate<kPerLane, true>(a);
}

__device__ __forceinline__ void hadamard_pass(const HadamardPassArgs& a) {
    const std::int64_t pairs = a.columns / 2, row = thread_number() / pairs, pair = thread_number() % pairs;
    if (row >= a.rows) return;
    float* y = a.y + row * a.y_stride + pair / a.distance * 2 * a.distance + pair % a.distance;
    const float low = y[0], high = y[a.distance];
    y[0] = low + high;
    y[a.distance] = low - high;
}

__device__ __forceinline__ void convrot_pass(const HadamardPassArgs& a) {
    const std::int64_t fours = a.columns / 4, row = thread_number() / fours, four = thread_number() % fours;
    if (row >= a.rows) return;
    float* y = a.y + row * a.y_stride + four / a.distance * 4 * a.distance + four % a.distance;
    convrot_four(y[0], y[a.distance], y[2 * a.distance], y[3 * a.distance]);
}

}  // namespace aerogel::cuda
