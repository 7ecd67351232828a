// What kernels may ask of a GPU from sm_80 on, beside CUDA C++ itself (threadIdx, __syncthreads, __fmul_rn
// ...). Under nvcc these are a few lines of PTX each; any other compiler gets the emulator's
// (tests/emulator), which runs kernels in tests. Shared memory is gpu::shared() alone, of the size the launch
// gives.
#pragma once

#ifndef __CUDACC__
#include "emulator/primitives.h"
#else
#include <cstdint>

namespace aerogel::gpu {

#define AEROGEL_DEVICE __device__ __forceinline__

/// The block's shared memory, aligned to 1024 bytes.
AEROGEL_DEVICE unsigned char* shared() {
    extern __shared__ __align__(1024) unsigned char bytes[];
    return bytes;
}
/// Its address as instructions take it.
AEROGEL_DEVICE std::uint32_t address(const void* p) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// --- memory: one access of 1 to 16 bytes, which must be aligned to its size ---
template <class T>
AEROGEL_DEVICE T load(const void* p) {
    return *static_cast<const T*>(p);
}
/// Of global memory that nobody writes during the kernel.
template <class T>
AEROGEL_DEVICE T load_global(const void* p) {
    return __ldg(static_cast<const T*>(p));
}
template <class T>
AEROGEL_DEVICE void store(void* p, T v) {
    *static_cast<T*>(p) = v;
}

// --- asynchronous copies from global to shared memory ---
/// 16 bytes, or 16 zeros (from is then not read, but should be a valid address).
AEROGEL_DEVICE void cp_async16(void* to, const void* from, bool keep = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from),
                 "r"(keep ? 16 : 0)
                 : "memory");
}
/// 4, 8 or 16 bytes, of which those after kept become zero.
template <int kBytes>
AEROGEL_DEVICE void cp_async(void* to, const void* from, int kept = kBytes) {
    if constexpr (kBytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from), "r"(kept)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address(to)), "l"(from),
                     "n"(kBytes), "r"(kept)
                     : "memory");
    }
}
/// The copies of this thread since the last call are a group.
AEROGEL_DEVICE void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kNewest of this thread's groups are under way. Other threads see the bytes after a
/// barrier.
template <int kNewest>
AEROGEL_DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}
AEROGEL_DEVICE void cp_async_wait_all() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// --- barriers of some warps: numbers 1 to 15 (0 is __syncthreads), threads a multiple of 32 ---
AEROGEL_DEVICE void barrier_sync(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
/// Counts without waiting.
AEROGEL_DEVICE void barrier_arrive(int number, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// --- the lanes of a warp: all 32 take part. Not a barrier for memory, which is __syncwarp ---
template <class T>
AEROGEL_DEVICE T shfl(T v, int from) {
    return __shfl_sync(~0U, v, from);
}
template <class T>
AEROGEL_DEVICE T shfl_xor(T v, int mask) {
    return __shfl_xor_sync(~0U, v, mask);
}
template <class T>
AEROGEL_DEVICE T shfl_down(T v, int by) {
    return __shfl_down_sync(~0U, v, static_cast<unsigned>(by));
}
template <class T>
AEROGEL_DEVICE T shfl_up(T v, int by) {
    return __shfl_up_sync(~0U, v, static_cast<unsigned>(by));
}
AEROGEL_DEVICE std::uint32_t ballot(bool b) {
    return __ballot_sync(~0U, b);
}
AEROGEL_DEVICE int lane_id() {
    return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

// --- tensor cores ---
/// Four (two) 8 x 8 tiles of 16 bits. Lane l gives the address of row l % 8 of tile l / 8 and gets, of tile
/// m, the two elements at row l / 4, columns l % 4 * 2 and the next in r[m]; trans: of the transposed tile.
AEROGEL_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(row))
                 : "memory");
}
AEROGEL_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address(row))
                 : "memory");
}
AEROGEL_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(row))
                 : "memory");
}
AEROGEL_DEVICE void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address(row))
                 : "memory");
}

#define AEROGEL_MMA(shape_and_types, constraint)                                          \
    asm volatile("mma.sync.aligned." shape_and_types                                      \
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                 \
                 : constraint(c[0]), constraint(c[1]), constraint(c[2]), constraint(c[3]) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

/// c[16,8] += A[16,32] B[8,32]^T of int8; int32 sums wrap. Lane l: c[0], c[1] at row l / 4, columns l % 4 * 2
/// and the next; c[2], c[3] eight rows below. a[0] holds row l / 4, k of l % 4 * 4 and the next three, a[1]
/// eight rows below, a[2] and a[3] the same 16 k further; b[0] and b[1] row l / 4 of B likewise.
AEROGEL_DEVICE void mma_s8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
    AEROGEL_MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r");
}
/// The same with A of uint8.
AEROGEL_DEVICE void mma_u8s8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
    AEROGEL_MMA("m16n8k32.row.col.s32.u8.s8.s32", "+r");
}
/// c[16,8] += A[16,16] B[8,16]^T; registers as for mma_s8 with two elements each.
AEROGEL_DEVICE void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
    AEROGEL_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "+f");
}
AEROGEL_DEVICE void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
    AEROGEL_MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f");
}
/// c[16,8] += A[16,32] B[8,32]^T of fp8; sm_89, and sm_120 (elsewhere it is computed in f16).
AEROGEL_DEVICE void mma_e4m3(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
    AEROGEL_MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32", "+f");
}

// --- numbers ---
/// The larger one; NaN if one is.
AEROGEL_DEVICE float fmax_nan(float a, float b) {
    return a > b || a != a ? a : b;
}
/// 2^x within 2 ulp; results below the normal numbers are 0.
AEROGEL_DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/// Two numbers rounded to nearest even, the first one in the low bits.
AEROGEL_DEVICE std::uint32_t pack_bf16(float low, float high) {
    std::uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
AEROGEL_DEVICE std::uint32_t pack_f16(float low, float high) {
    std::uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
/// The low 16 bits as a number.
AEROGEL_DEVICE float float_of_bf16(std::uint32_t bits) {
    return __uint_as_float(bits << 16);
}
AEROGEL_DEVICE float float_of_f16(std::uint32_t bits) {
    float r;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\ncvt.f32.f16 %0, low;\n}" : "=f"(r) : "r"(bits));
    return r;
}
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
/// Two fp8 numbers in the low 16 bits; beyond 448: +-448. sm_89 and later.
AEROGEL_DEVICE std::uint32_t pack_e4m3(float low, float high) {
    std::uint16_t r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
    return r;
}
#endif

#undef AEROGEL_MMA

}  // namespace aerogel::gpu
#endif
