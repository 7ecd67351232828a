// The rounding formats of attention on CUDA: what kernels/attention_rounding.h defines, bit for bit, in
// passes over copies of q, k and v in f32.
#pragma once

#include "kernels/cuda/attention_rounding_args.h"
#include "kernels/cuda/int8_scales.cuh"

namespace aerogel::cuda {

__device__ __forceinline__ void copy_rows(const RoundCopyArgs& a) {
    const std::int64_t row = row_of_warp();
    if (row >= a.rows) return;
    const std::int64_t map = row / a.tokens, at = row_at(a.from, map, row % a.tokens);
    for (int c = static_cast<int>(threadIdx.x % 32); c < a.head_dim; c += 32) {
        const float mean = a.mean == nullptr ? 0.0F : a.mean[map * a.head_dim + c];
        a.to[row * a.head_dim + c] = __fsub_rn(element_at(a.from.data, a.elements, at + c), mean);
    }
}

/// One block of threads per map, one thread per channel.
__device__ __forceinline__ void take_plain_means(const RoundMeansArgs& a) {
    const std::int64_t map = blockIdx.x;
    const int c = static_cast<int>(threadIdx.x);
    if (c >= a.head_dim) return;
    const auto value = [&](std::int64_t token) {
        return element_at(a.from.data, a.elements, row_at(a.from, map, token) + c);
    };
    double sum = 0.0;
    if (a.as_int8 != 0) {
        for (std::int64_t first = 0; first < a.tokens; first += kTokensOfSum)
            sum = __dadd_rn(sum, sum_of_portion(first, a.tokens, value));
    } else {
#pragma unroll 8
        for (std::int64_t token = 0; token < a.tokens; ++token)
            sum = __dadd_rn(sum, static_cast<double>(value(token)));
    }
    a.to[map * a.head_dim + c] = static_cast<float>(sum / static_cast<double>(a.tokens));
}

/// To the nearest number with so many bits behind the point, ties to even: E4M3 has 3 from 2^-6 on, E2M1 1
/// from 1 on.
__device__ __forceinline__ float to_grid(float x, int bits, int least_exponent, float most) {
    if (x != x) return x;
    const int exponent = static_cast<int>(magnitude(x) >> 23) - 127;
    const int step = (exponent < least_exponent ? least_exponent : exponent) - bits;
    const float rounded = rintf(ldexpf(x, -step));
    return copysignf(fminf(fabsf(ldexpf(rounded, step)), most), x);
}

__device__ __forceinline__ float to_grid(float x, NumberGrid grid) {
    if (grid == NumberGrid::whole) return rintf(x);
    return grid == NumberGrid::e4m3 ? to_grid(x, 3, -6, 448.0F) : to_grid(x, 1, 0, 6.0F);
}

/// floor(log2(x)) of a positive number.
__device__ __forceinline__ int exponent_of(float x) {
    const std::uint32_t bits = magnitude(x);
    return bits >= 0x800000U ? static_cast<int>(bits >> 23) - 127 : -118 - __clz(static_cast<int>(bits));
}

/// mxfp4_exponent_of() and mx_exponent() of formats/mx.h.
__device__ __forceinline__ int power_of(float largest, const RoundArgs& a) {
    if (largest == 0.0F) return -127;
    int plain = exponent_of(largest) - (a.grid == NumberGrid::e4m3 ? 8 : 2);
    plain = plain < -127 ? -127 : plain;
    if (a.grid == NumberGrid::e4m3 || a.algorithm == 0) return plain;
    if (a.dst_type_max == 0.0F || a.dst_type_max == 6.0F || a.dst_type_max == 7.0F)
        return ldexpf(largest, -plain) > (a.dst_type_max == 7.0F ? 7.0F : 6.0F) ? plain + 1 : plain;
    const std::uint32_t bits = __float_as_uint(__fdiv_rn(largest, a.dst_type_max)),
                        mantissa = bits & 0x7FFFFFU;
    const int exponent = static_cast<int>(bits >> 23);
    const bool up = exponent == 0 ? mantissa > 0x400000U : exponent < 254 && mantissa > 0;
    return exponent + (up ? 1 : 0) - 127;
}

/// The rounding of values that share a scale.
struct Rounding {
    NumberGrid grid;
    bool powers, poison;
    int power = 0;
    float scale = 1.0F;

    __device__ __forceinline__ Rounding(std::uint32_t largest, const RoundArgs& a)
        : grid(a.grid), powers(a.powers != 0), poison(largest >= 0x7F800000U) {
        if (poison) return;
        const float most = __uint_as_float(largest);
        if (powers) {
            power = power_of(most, a);
            return;
        }
        scale = __fdiv_rn(most, a.grid == NumberGrid::whole ? 127.0F : 448.0F);
        if (scale == 0.0F) scale = 1.0F;
    }
    __device__ __forceinline__ float operator()(float x) const {
        if (poison) return __uint_as_float(0x7FC00000U);
        if (powers) return ldexpf(to_grid(ldexpf(x, -power), grid), power);
        return __fmul_rn(to_grid(__fdiv_rn(x, scale), grid), scale);
    }
};

/// A block of threads per block of tokens and part of the channels, which share a scale.
__device__ __forceinline__ void round_blocks(const RoundArgs& a) {
    const std::int64_t task = blockIdx.x, part = task % a.parts, block = task / a.parts % a.blocks;
    const std::int64_t map = task / a.parts / a.blocks, first = block * a.block;
    const int begin = static_cast<int>(part) * a.channels;
    const int width = a.head_dim - begin < a.channels ? a.head_dim - begin : a.channels;
    const std::int64_t tokens = a.tokens - first < a.block ? a.tokens - first : a.block,
                       count = tokens * width;
    float* const data = a.data + (map * a.tokens + first) * a.head_dim + begin;
    const auto at = [&](std::int64_t i) -> float& { return data[i / width * a.head_dim + i % width]; };
    auto* const of_warps = reinterpret_cast<std::uint32_t*>(gpu::shared());
    std::uint32_t largest = 0;
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        const std::uint32_t found = magnitude(at(i));
        largest = largest > found ? largest : found;
    }
    largest = largest_of_warp(largest);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x / 32; ++i) largest = largest > of_warps[i] ? largest : of_warps[i];
    const Rounding rounding(largest, a);
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) at(i) = rounding(at(i));
}

/// A block of threads per block of tokens, one thread per channel with a scale of its own.
__device__ __forceinline__ void round_channels(const RoundArgs& a) {
    const std::int64_t map = blockIdx.x / a.blocks, first = blockIdx.x % a.blocks * a.block;
    const std::int64_t tokens = a.tokens - first < a.block ? a.tokens - first : a.block;
    const int c = static_cast<int>(threadIdx.x);
    if (c >= a.head_dim) return;
    float* const data = a.data + (map * a.tokens + first) * a.head_dim + c;
    std::uint32_t largest = 0;
#pragma unroll 4
    for (std::int64_t token = 0; token < tokens; ++token) {
        const std::uint32_t found = magnitude(data[token * a.head_dim]);
        largest = largest > found ? largest : found;
    }
    const Rounding rounding(largest, a);
#pragma unroll 4
    for (std::int64_t token = 0; token < tokens; ++token)
        data[token * a.head_dim] = rounding(data[token * a.head_dim]);
}

/// One warp per row: 32 channels share a scale.
__device__ __forceinline__ void round_rows(const RoundArgs& a) {
    const std::int64_t row = row_of_warp();
    if (row >= a.rows) return;
    for (int first = 0; first < a.head_dim; first += 32) {
        const int c = first + static_cast<int>(threadIdx.x % 32);
        float* const x = a.data + row * a.head_dim + c;
        const float value = c < a.head_dim ? *x : 0.0F;
        const Rounding rounding(largest_of_warp(magnitude(value)), a);
        if (c < a.head_dim) *x = rounding(value);
    }
}

}  // namespace aerogel::cuda
