// The kinds of products of gemm.cuh: what is multiplied and summed, how a lane's weights lie in shared memory
// and become registers of mma.sync. Four and eight bits become integers or bf16 by a few bit operations (Kim
// et al., "Who says elephants can't run", 2022; Frantar et al., "Marlin", 2024; Lin et al., "QServe", 2024),
// always exactly.
#pragma once

#include "kernels/cuda/linear_numbers.cuh"

namespace aerogel::cuda {

/// A kind has
///   Sum                      of the accumulators
///   kIntegers                whether that is int32
///   kBytes                   of a row of a slab of w
///   kRowScale                whether groups share the scale of the row
///   kOffsets                 whether an offset may be taken off w
///   multiply(sum, x, b)      sum += x w^T, 16 rows by 8 columns by 32 bytes of x
///   unpack(...)              b of one step out of a lane's word, kBytes of 64 or 32 only
struct Int8 {
    using Sum = std::int32_t;
    static constexpr bool kIntegers = true;
    static constexpr int kBytes = 128;
    static constexpr bool kOffsets = false;
    static constexpr bool kRowScale = false;
    static constexpr int kShift = 0;  ///< sums are 2^kShift times too large
    static __device__ __forceinline__ void multiply(Sum (&sum)[4], const std::uint32_t (&x)[4],
                                                    const std::uint32_t (&b)[2]) {
        gpu::mma_s8(sum, x, b);
    }
};

/// Nibbles i of a word, i < 4, in the low halves of its bytes are of b0, in the high ones of b1. They become
/// bytes 16 times as large.
struct Int4 : Int8 {
    static constexpr int kBytes = 64;
    static constexpr int kShift = 4;
    static __device__ __forceinline__ void unpack(std::uint32_t word, int, std::uint32_t, const GemmArgs&,
                                                  std::uint32_t (&b)[2]) {
        b[0] = word << 4 & 0xF0F0F0F0U;
        b[1] = word & 0xF0F0F0F0U;
    }
};

struct Bf16 {
    using Sum = float;
    static constexpr bool kIntegers = false;
    static constexpr int kBytes = 128;
    static constexpr bool kOffsets = false;
    static constexpr bool kRowScale = false;
    static __device__ __forceinline__ void multiply(Sum (&sum)[4], const std::uint32_t (&x)[4],
                                                    const std::uint32_t (&b)[2]) {
        gpu::mma_bf16(sum, x, b);
    }
};

/// E4M3 on both sides. The tensor cores keep some 14 bits of such sums, so those of a group are added up as
/// float32; the scale is one of the whole row.
struct Fp8 : Bf16 {
    static constexpr bool kRowScale = true;
    static __device__ __forceinline__ void multiply(Sum (&sum)[4], const std::uint32_t (&x)[4],
                                                    const std::uint32_t (&b)[2]) {
        gpu::mma_e4m3(sum, x, b);
    }
};

/// Bytes 0 and 1 of a word are of b0. With the bits of 128 before them, seven bits of a byte are 128 + b, and
/// the sign bit alone is 128 or 256: their difference is the integer.
struct Bf16Int8 : Bf16 {
    static constexpr int kBytes = 64;
    static constexpr bool kOffsets = true;
    static __device__ __forceinline__ std::uint32_t number(std::uint32_t two, std::uint32_t offset,
                                                           const GemmArgs& a) {
        const std::uint32_t q = gpu::sub_bf16x2(two & 0xFF7FFF7FU, two & 0xFF80FF80U);
        return a.offset == nullptr ? q : gpu::sub_bf16x2(q, offset);
    }
    static __device__ __forceinline__ void unpack(std::uint32_t word, int, std::uint32_t offset,
                                                  const GemmArgs& a, std::uint32_t (&b)[2]) {
        b[0] = number(__byte_perm(word, 0x43434343U, 0x4140), offset, a);
        b[1] = number(__byte_perm(word, 0x43434343U, 0x4342), offset, a);
    }
};

/// A word has two steps, its low 16 bits the even columns: nibble 2 * (step % 2) is of b0, the next of b1.
/// Nibbles are q + 8; with the bits of 128 before them they are 136 + q.
struct Bf16Int4 : Bf16 {
    static constexpr int kBytes = 32;
    static constexpr bool kOffsets = true;
    static __device__ __forceinline__ std::uint32_t number(std::uint32_t word, std::uint32_t offset,
                                                           const GemmArgs& a) {
        const std::uint32_t q = gpu::sub_bf16x2((word & 0x000F000FU) | 0x43004300U, 0x43084308U);
        return a.offset == nullptr ? q : gpu::sub_bf16x2(q, offset);
    }
    static __device__ __forceinline__ void unpack(std::uint32_t word, int step, std::uint32_t offset,
                                                  const GemmArgs& a, std::uint32_t (&b)[2]) {
        b[0] = number(word >> (step % 2 * 8), offset, a);
        b[1] = number(word >> (step % 2 * 8 + 4), offset, a);
    }
};

/// E4M3 or E5M2 as Bf16Int8 has its bytes: shifted to where bf16 has exponent and mantissa, then times the
/// difference of the biases.
struct Bf16Fp8 : Bf16 {
    static constexpr int kBytes = 64;
    static __device__ __forceinline__ std::uint32_t number(std::uint32_t two, const GemmArgs& a) {
        const bool e5m2 = a.e5m2 != 0;
        const std::uint32_t magnitude = (two & 0x7F007F00U) >> (e5m2 ? 3 : 4);
        return gpu::mul_bf16x2(magnitude | (two & 0x80008000U), e5m2 ? 0x77807780U : 0x7B807B80U);
    }
    static __device__ __forceinline__ void unpack(std::uint32_t word, int, std::uint32_t, const GemmArgs& a,
                                                  std::uint32_t (&b)[2]) {
        b[0] = number(__byte_perm(word, 0, 0x1404), a);
        b[1] = number(__byte_perm(word, 0, 0x3424), a);
    }
};

/// E2M1 as Bf16Int4 has its nibbles, the same way.
struct Bf16Fp4 : Bf16 {
    static constexpr int kBytes = 32;
    static __device__ __forceinline__ std::uint32_t number(std::uint32_t word) {
        return gpu::mul_bf16x2((word & 0x00070007U) << 6 | (word & 0x00080008U) << 12, 0x7E807E80U);
    }
    static __device__ __forceinline__ void unpack(std::uint32_t word, int step, std::uint32_t,
                                                  const GemmArgs&, std::uint32_t (&b)[2]) {
        b[0] = number(word >> (step % 2 * 8));
        b[1] = number(word >> (step % 2 * 8 + 4));
    }
};

}  // namespace aerogel::cuda
