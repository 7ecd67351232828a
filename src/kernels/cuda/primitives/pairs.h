// Arithmetic of two bf16 numbers in one register.
#pragma once

#include "kernels/cuda/primitives/gpu.h"

#ifndef __CUDACC__

namespace aerogel::gpu {

/// a + b and a * b of both halves, rounded to nearest even; denormal numbers are numbers.
inline std::uint32_t sub_bf16x2(std::uint32_t a, std::uint32_t b) {
    return pack_bf16(float_of_bf16(a) - float_of_bf16(b), float_of_bf16(a >> 16) - float_of_bf16(b >> 16));
}
inline std::uint32_t mul_bf16x2(std::uint32_t a, std::uint32_t b) {
    return pack_bf16(float_of_bf16(a) * float_of_bf16(b), float_of_bf16(a >> 16) * float_of_bf16(b >> 16));
}

}  // namespace aerogel::gpu

#else

namespace aerogel::gpu {

/// a - b and a * b of both halves, rounded to nearest even; denormal numbers are numbers. fma is what sm_80
/// has.
__device__ __forceinline__ std::uint32_t sub_bf16x2(std::uint32_t a, std::uint32_t b) {
    std::uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(b), "r"(0xBF80BF80U), "r"(a));
    return r;
}
__device__ __forceinline__ std::uint32_t mul_bf16x2(std::uint32_t a, std::uint32_t b) {
    std::uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000U));
    return r;
}

}  // namespace aerogel::gpu

#endif
