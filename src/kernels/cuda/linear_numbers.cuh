// Numbers in the linear kernels: loads and stores of f32, bf16 and f16, and roundings that must not depend on
// a compiler or a target.
#pragma once

#include "kernels/cuda/linear_args.h"
#include "kernels/cuda/primitives/pairs.h"

namespace aerogel::cuda {

/// To nearest, ties to even; NaN is kept, not its payload.
__device__ __forceinline__ std::uint32_t bf16_of(float x) {
    const std::uint32_t u = __float_as_uint(x);
    return x == x ? (u + 0x7FFFU + (u >> 16 & 1U)) >> 16 : 0x7FC0U;
}

/// The same, but no finite number becomes infinite.
__device__ __forceinline__ std::uint32_t finite_bf16_of(float x) {
    const std::uint32_t half = bf16_of(x);
    const bool grew = (half & 0x7FFFU) == 0x7F80U && (__float_as_uint(x) & 0x7FFFFFFFU) < 0x7F800000U;
    return grew ? __float_as_uint(x) >> 16 : half;
}

__device__ __forceinline__ float load_real(const void* from, std::int64_t at, Real type) {
    if (type == Real::f32) return static_cast<const float*>(from)[at];
    const std::uint32_t half = static_cast<const std::uint16_t*>(from)[at];
    return type == Real::bf16 ? gpu::float_of_bf16(half) : gpu::float_of_f16(half);
}

/// At 16 bytes.
__device__ __forceinline__ void load_eight(const void* from, std::int64_t at, Real type, float (&out)[8]) {
    if (type == Real::f32) {
        const auto low = gpu::load<float4>(static_cast<const float*>(from) + at);
        const auto high = gpu::load<float4>(static_cast<const float*>(from) + at + 4);
        out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
        out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
        return;
    }
    const auto four = gpu::load<uint4>(static_cast<const std::uint16_t*>(from) + at);
    const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const std::uint32_t half = i % 2 == 0 ? words[i / 2] & 0xFFFFU : words[i / 2] >> 16;
        out[i] = type == Real::bf16 ? gpu::float_of_bf16(half) : gpu::float_of_f16(half);
    }
}

/// `count` of eight neighbours; all of them at 16 bytes where `aligned`.
__device__ __forceinline__ void store_eight(void* to, std::int64_t at, Real type, const float (&values)[8],
                                            int count, bool aligned) {
    std::uint32_t words[8];
    if (type == Real::f32) {
#pragma unroll
        for (int i = 0; i < 8; ++i) words[i] = __float_as_uint(values[i]);
        auto* out = static_cast<std::uint32_t*>(to) + at;
        if (aligned && count == 8) {
            gpu::store(out, make_uint4(words[0], words[1], words[2], words[3]));
            gpu::store(out + 4, make_uint4(words[4], words[5], words[6], words[7]));
            return;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < count) out[i] = words[i];
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        words[i] = type == Real::bf16 ? gpu::pack_bf16(values[2 * i], values[2 * i + 1])
                                      : gpu::pack_f16(values[2 * i], values[2 * i + 1]);
    auto* out = static_cast<std::uint16_t*>(to) + at;
    if (aligned && count == 8) {
        gpu::store(out, make_uint4(words[0], words[1], words[2], words[3]));
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (i < count)
            out[i] = static_cast<std::uint16_t>(i % 2 == 0 ? words[i / 2] & 0xFFFFU : words[i / 2] >> 16);
}

/// y of an exact sum, in the order of kernels/linear.h. addend: the bits of an int32 where the call has fixed
/// scales; a bias of -0 changes nothing.
__device__ __forceinline__ float scaled(const GemmArgs& a, std::int32_t sum, float s_t, float scale,
                                        float addend) {
    if (a.fixed != 0) {
        const std::uint32_t shifted = static_cast<std::uint32_t>(sum) + __float_as_uint(addend);
        return __fmul_rn(static_cast<float>(static_cast<std::int32_t>(shifted)), scale);
    }
    return __fadd_rn(__fmul_rn(__fmul_rn(static_cast<float>(sum), scale), s_t), addend);
}

/// y of a float sum.
__device__ __forceinline__ float scaled(const GemmArgs&, float sum, float s_t, float scale, float addend) {
    return __fadd_rn(__fmul_rn(__fmul_rn(sum, scale), s_t), addend);
}

/// The bits of a number that rounded() made for E4M3.
__device__ __forceinline__ std::uint32_t e4m3_of(float x) {
    const std::uint32_t u = __float_as_uint(x), sign = u >> 24 & 0x80U;
    const float magnitude = fabsf(x);
    if (magnitude < 0x1p-6F) return sign | static_cast<std::uint32_t>(__fmul_rn(magnitude, 512.0F));
    return sign | ((u >> 20 & 0x7FFU) - (120U << 3));
}

/// 2^exponent for -127 <= exponent <= 127.
__device__ __forceinline__ float power_of_two(int exponent) {
    return __uint_as_float(exponent == -127 ? 0x00400000U : static_cast<std::uint32_t>(exponent + 127) << 23);
}

/// scale where it is a normal number, else 1.
__device__ __forceinline__ float normal_or_one(float scale) {
    return scale >= 0x1p-126F && scale < __uint_as_float(0x7F800000U) ? scale : 1.0F;
}

/// To the nearest number with so many bits of mantissa, ties to even, saturated: x + c has its last bit where
/// such a number has it. `smallest` is the smallest normal one.
__device__ __forceinline__ float rounded(float x, int mantissa, float smallest, float largest) {
    const float power = fmaxf(__uint_as_float(__float_as_uint(x) & 0x7F800000U), smallest);
    const float c = __fmul_rn(power, 1.5F * static_cast<float>(1 << (23 - mantissa)));
    return fminf(fmaxf(__fsub_rn(__fadd_rn(x, c), c), -largest), largest);
}

__device__ __forceinline__ std::uint32_t four_bytes(std::int32_t a, std::int32_t b, std::int32_t c,
                                                    std::int32_t d) {
    const auto byte = [](std::int32_t v) { return static_cast<std::uint32_t>(v) & 0xFFU; };
    return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}

}  // namespace aerogel::cuda
