// What nvcc knows and g++ does not: the words and built-in functions of CUDA C++ that kernels use. Shared
// memory comes from gpu::shared() only: static __shared__ arrays are left undefined on purpose.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator/atomics.h"
#include "emulator/barriers.h"
#include "emulator/lane.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) alignas(n)

#define threadIdx (::aerogel::emulator::thread_index())
#define blockIdx (::aerogel::emulator::block_index())
#define blockDim (::aerogel::emulator::block_size())
#define gridDim (::aerogel::emulator::grid_size())

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
inline int2 make_int2(int x, int y) {
    return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
    return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

using std::max;
using std::min;

inline void __syncthreads(aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    aerogel::emulator::synchronize(0, 0, true, where);
}
inline void __syncwarp(aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    aerogel::emulator::synchronize_warp(where);
}

// The emulator is compiled with -ffp-contract=off, so these are single operations.
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline float __fsqrt_rn(float a) {
    return std::sqrt(a);
}
inline float __frcp_rn(float a) {
    return 1.0F / a;
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __expf(float a) {
    return std::exp(a);
}
inline float __logf(float a) {
    return std::log(a);
}
inline float rsqrtf(float a) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a)));
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline double __fma_rn(double a, double b, double c) {
    return std::fma(a, b, c);
}

/// Out of range: the nearest int; NaN: 0.
inline int __float2int_rn(float a) {
    if (a != a) return 0;
    if (a >= 2147483648.0F) return 2147483647;
    if (a < -2147483648.0F) return -2147483647 - 1;
    return static_cast<int>(std::nearbyint(a));
}
inline int __float2int_rz(float a) {
    return __float2int_rn(std::trunc(a));
}
inline int __float2int_rd(float a) {
    return __float2int_rn(std::floor(a));
}
inline float __int2float_rn(int a) {
    return static_cast<float>(a);
}
inline float __uint2float_rn(unsigned a) {
    return static_cast<float>(a);
}
inline int __float_as_int(float a) {
    return std::bit_cast<int>(a);
}
inline unsigned __float_as_uint(float a) {
    return std::bit_cast<unsigned>(a);
}
inline float __int_as_float(int a) {
    return std::bit_cast<float>(a);
}
inline float __uint_as_float(unsigned a) {
    return std::bit_cast<float>(a);
}
inline int __popc(unsigned a) {
    return std::popcount(a);
}
inline int __clz(int a) {
    return std::countl_zero(static_cast<unsigned>(a));
}
inline int __ffs(int a) {
    return a == 0 ? 0 : std::countr_zero(static_cast<unsigned>(a)) + 1;
}
inline int __popcll(unsigned long long a) {
    return std::popcount(a);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32);
}
/// Byte i of the result is byte (selector >> 4 i) & 7 of the eight bytes of a (0 to 3) and b (4 to 7).
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(b) << 32 | a;
    unsigned r = 0;
    for (unsigned i = 0; i < 4; ++i)
        r |= static_cast<unsigned>(bytes >> (selector >> (4 * i) & 7) * 8 & 0xFF) << (8 * i);
    return r;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += static_cast<std::int8_t>(a >> i) * static_cast<std::int8_t>(b >> i);
    return c;
}
