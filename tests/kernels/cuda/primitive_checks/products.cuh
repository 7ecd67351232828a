// What the checks share: small whole numbers in every format, so that sums are exact in any order, and
// products of a warp in plain loops.
#pragma once

#include "kernels/cuda/primitive_checks/primitives.h"
#include "kernels/cuda/primitives/gpu.h"

/// A kernel that checks one primitive by the function of that name.
#define AEROGEL_CHECK(name, ...)                                                      \
    extern "C" __global__ void __launch_bounds__(aerogel::testing::kPrimitiveThreads) \
        aerogel_check_##name(aerogel::testing::PrimitiveArgs a) {                     \
        a.wrong[threadIdx.x] = aerogel::testing::__VA_ARGS__;                         \
    }

namespace aerogel::testing {

__device__ inline int lane_of_thread() {
    return static_cast<int>(threadIdx.x % 32);
}

// Formats: of a random byte the number, and its bits.
struct S8 {
    static constexpr int kBits = 8;
    static __device__ int value(unsigned byte) { return static_cast<int>(byte) - (byte > 127 ? 256 : 0); }
    static __device__ std::uint32_t bits(unsigned byte) { return byte; }
};
struct U8 : S8 {
    static __device__ int value(unsigned byte) { return static_cast<int>(byte); }
};
/// -4 to 4 as floats: bits of 0 to 4 in 16 bits each, and the bit of the sign.
template <int kWidth, std::uint32_t kOne, std::uint32_t kTwo, std::uint32_t kThree, std::uint32_t kFour>
struct Small {
    static constexpr int kBits = kWidth;
    static __device__ int value(unsigned byte) { return static_cast<int>(byte % 9) - 4; }
    static __device__ std::uint32_t bits(unsigned byte) {
        const int v = value(byte), size = v < 0 ? -v : v;
        const std::uint32_t number = size == 0   ? 0
                                     : size == 1 ? kOne
                                     : size == 2 ? kTwo
                                     : size == 3 ? kThree
                                                 : kFour;
        return number | (v < 0 ? 1U << (kWidth - 1) : 0U);
    }
};
using NumberBf16 = Small<16, 0x3F80, 0x4000, 0x4040, 0x4080>;
using NumberF16 = Small<16, 0x3C00, 0x4000, 0x4200, 0x4400>;
using NumberE4M3 = Small<8, 0x38, 0x40, 0x44, 0x48>;
using NumberE2M1 = Small<4, 0x2, 0x4, 0x5, 0x6>;
/// In bits 2 to 5 of a byte.
struct WideE2M1 : NumberE2M1 {
    static constexpr int kBits = 8;
    static __device__ std::uint32_t bits(unsigned byte) { return NumberE2M1::bits(byte) << 2; }
};

/// A matrix of random numbers: element (row, k) is of byte first + row * 64 + k.
template <class N>
struct Numbers {
    const unsigned char* bytes;

    __device__ int value(int row, int k) const { return N::value(bytes[row * 64 + k]); }
    /// A register of them, from k on.
    __device__ std::uint32_t pack(int row, int k) const {
        std::uint32_t all = 0;
        for (int i = 0; i < 32 / N::kBits; ++i) all |= N::bits(bytes[row * 64 + k + i]) << (i * N::kBits);
        return all;
    }
};

/// Of a lane: what m16n8 takes of A (rows from `row` on) and of B, by the contract of gpu::mma_s8.
template <class N>
__device__ inline void operand_a(std::uint32_t (&r)[4], const Numbers<N>& a, int row) {
    constexpr int kPer = 32 / N::kBits;
    for (int i = 0; i < 4; ++i)
        r[i] = a.pack(row + lane_of_thread() / 4 + i % 2 * 8, lane_of_thread() % 4 * kPer + i / 2 * 4 * kPer);
}
template <class N>
__device__ inline void operand_b(std::uint32_t (&r)[2], const Numbers<N>& b) {
    constexpr int kPer = 32 / N::kBits;
    for (int i = 0; i < 2; ++i) r[i] = b.pack(lane_of_thread() / 4, (lane_of_thread() % 4 + i * 4) * kPer);
}

/// c += A B^T of one warp, from c = 3 on. multiply(c, a, b).
template <class Sum, class A, class B, class Multiply, class Scale>
__device__ inline int wrong_products(const PrimitiveArgs& args, Multiply multiply, Scale scale) {
    const Numbers<A> a{args.bytes};
    const Numbers<B> b{args.bytes + 1024};
    std::uint32_t ra[4], rb[2];
    operand_a(ra, a, 0);
    operand_b(rb, b);
    Sum c[4] = {3, 3, 3, 3};
    multiply(c, ra, rb);
    int wrong = 0;
    for (int i = 0; i < 4; ++i) {
        const int row = lane_of_thread() / 4 + i / 2 * 8, column = lane_of_thread() % 4 * 2 + i % 2;
        Sum wanted = 3;
        for (int k = 0; k < 256 / A::kBits; ++k)
            wanted += static_cast<Sum>(a.value(row, k) * b.value(column, k)) * scale(row, column, k / 32);
        wrong += c[i] != wanted;
    }
    return wrong;
}
template <class Sum, class A, class B, class Multiply>
__device__ inline int wrong_products(const PrimitiveArgs& args, Multiply multiply) {
    return wrong_products<Sum, A, B>(args, multiply, [](int, int, int) { return Sum{1}; });
}

}  // namespace aerogel::testing
